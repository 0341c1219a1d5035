// The pixels of the taps of a block of points, and visits of these.

#ifndef STNJAX_SAMPLING_KERNELS_TAPS_H_
#define STNJAX_SAMPLING_KERNELS_TAPS_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "places.h"

namespace stnjax {

// Offsets from the first tap to the first tap of each row.
template <int kAxes, int kTaps>
struct Rows {
  static constexpr int kRows = rows_of(kAxes, kTaps);
  int64_t at[kRows];

  INLINE Rows(const Sizes& s, int64_t channels) {
    const int64_t row = s.axes[0].size * channels;
    for (int r = 0; r < kRows; ++r) {
      at[r] = r % kTaps * row;
      if constexpr (kAxes == 3) at[r] += r / kTaps * row * s.axes[1].size;
    }
  }

  // Of taps that stand alone, row after row.
  INLINE explicit Rows(int64_t channels) {
    for (int r = 0; r < kRows; ++r) at[r] = r * kTaps * channels;
  }
};

// The taps of a point that are all pixels: those of a row lie side by side.
// Pixel is T or const T.
template <typename Pixel, int kAxes, int kTaps>
struct TapsInside {
  static constexpr bool kSideBySide = true;
  Pixel* first;
  const Rows<kAxes, kTaps>& rows;
  int64_t channels;

  INLINE Pixel* operator()(int row, int tap) const {
    return first + rows.at[row] + tap * channels;
  }
};

// The taps of any point: `nothing` where they are no pixel.
template <typename Pixel, int kAxes, int kTaps>
struct TapsAnywhere {
  static constexpr bool kSideBySide = false;
  static constexpr int kRows = rows_of(kAxes, kTaps);
  Pixel *image, *nothing;
  int64_t row[kRows], column[kTaps];  // offsets; below 0 where there are none

  template <typename T>
  INLINE TapsAnywhere(const Sizes& s, const Places<T, kAxes, kTaps>& p,
                      int64_t i, int64_t channels, Pixel* image,
                      Pixel* nothing)
      : image(image), nothing(nothing) {
    int64_t pixel[kAxes][kTaps];
    for (int a = 0; a < kAxes; ++a) {
      for (int k = 0; k < kTaps; ++k) {
        pixel[a][k] = s.axes[a].template pixel<kTaps>(p.at[a][i] + k);
      }
    }
    for (int k = 0; k < kTaps; ++k) column[k] = pixel[0][k] * channels;
    for (int r = 0; r < kRows; ++r) {
      row[r] = pixel[1][r % kTaps];
      if constexpr (kAxes == 3) {
        const int64_t plane = pixel[2][r / kTaps];
        row[r] = (row[r] | plane) < 0 ? -1 : row[r] + plane * s.axes[1].size;
      }
      row[r] *= s.axes[0].size * channels;
    }
  }

  INLINE bool exists(int r, int tap) const {
    return (row[r] | column[tap]) >= 0;
  }

  INLINE Pixel* operator()(int r, int tap) const {
    return exists(r, tap) ? image + row[r] + column[tap] : nothing;
  }
};

// Copies of the taps of a few points on the edge, so that these lie as those
// of a point inside.
template <typename Pixel, int kChannels, int kAxes, int kTaps>
struct Patches {
  static constexpr int kPatches = 8;
  static constexpr int kTotal = rows_of(kAxes, kTaps) * kTaps;

  const Rows<kAxes, kTaps> rows{kChannels};
  // The last is never filled, but may be read along with another.
  Pixel pixels[kPatches + 1][kTotal / kTaps][kTaps][kChannels];

  // Copies the taps of points, whose first tap then is that of their copies.
  template <typename T>
  __attribute__((noinline)) void take(const Sizes& s, int64_t start,
                                      int64_t end, const Pixel* image,
                                      const Pixel* nothing,
                                      Places<T, kAxes, kTaps>& p) {
    for (int64_t i = start; i < end; ++i) {
      const int64_t patch = i - start;
      const TapsAnywhere<const Pixel, kAxes, kTaps> taps(s, p, i, kChannels,
                                                         image, nothing);
      const bool together = taps.column[0] >= 0 &&
                            taps.column[kTaps - 1] - taps.column[0] ==
                                (kTaps - 1) * kChannels;
      for (int r = 0; r < kTotal / kTaps; ++r) {
        Pixel* row = pixels[patch][r][0];
        if (taps.row[r] < 0) {
          std::fill_n(row, kTaps * kChannels, Pixel(0));
        } else if (together) {
          std::copy_n(taps(r, 0), kTaps * kChannels, row);
        } else {
          for (int k = 0; k < kTaps; ++k) {
            std::copy_n(taps(r, k), kChannels, row + k * kChannels);
          }
        }
      }
      p.first[i] = static_cast<int32_t>(patch * kTotal);
    }
  }
};

// Calls `visit(i, taps)` for the points of a block that read anything, and
// `nowhere(i)` for others: runs of points alike in loops without branches.
template <int kChannels, typename Pixel, typename T, int kAxes, int kTaps,
          typename Visit, typename Nowhere>
INLINE void visit_points(Channels<kChannels> channels, const Sizes& s,
                         Places<T, kAxes, kTaps>& p, int64_t count,
                         const Rows<kAxes, kTaps>& rows, Pixel* image,
                         Pixel* nothing, const Visit& visit,
                         const Nowhere& nowhere) {
  using Inside = TapsInside<Pixel, kAxes, kTaps>;
  using Anywhere = TapsAnywhere<Pixel, kAxes, kTaps>;
  for (int64_t i = 0; i < count;) {
    const int32_t state = p.state[i];
    int64_t end = p.inside ? count : i + 1;
    while (end < count && p.state[end] == state) ++end;
    if (state == kNowhere) {
      for (; i < end; ++i) nowhere(i);
    } else if constexpr (kChannels > 0 && std::is_const_v<Pixel> &&
                         (kTaps == 4 || (kTaps == 2 && sizeof(Pixel) == 1))) {
      Patches<std::remove_const_t<Pixel>, kChannels, kAxes, kTaps> patches;
      const bool cut = state == kOnEdge;
      if (cut) {
        end = std::min<int64_t>(end, i + patches.kPatches);
        patches.take(s, i, end, image, nothing, p);
      }
      const Rows<kAxes, kTaps>& layout = cut ? patches.rows : rows;
      Pixel* first = cut ? patches.pixels[0][0][0] : image;
      for (; i < end; ++i) {
        visit(i, Inside{first + p.first[i] * channels, layout, channels});
      }
    } else if (state == kInside) {
      for (; i < end; ++i) {
        visit(i, Inside{image + p.first[i] * channels, rows, channels});
      }
    } else {
      for (; i < end; ++i) {
        visit(i, Anywhere(s, p, i, channels, image, nothing));
      }
    }
  }
}

// Asks for the pixels of a block, which lie across the image, ahead of time.
template <typename Pixel, typename T, int kAxes, int kTaps>
INLINE void prefetch(const Places<T, kAxes, kTaps>& p, int64_t count,
                     int64_t channels, const Rows<kAxes, kTaps>& rows,
                     const Pixel* image) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < count; i += sizeof(Pixel) == 1 ? 8 : 4) {
    const Pixel* pixel = image + p.first[i] * channels;
    for (int64_t offset : rows.at) __builtin_prefetch(pixel + offset);
  }
#endif
}

// Calls `visit` with the number of channels: with kFew, and for 1 mostly, as one
// that code is compiled for if it is small.
template <bool kFew, typename T, int kAxes, int kTaps, typename F>
INLINE void by_channels(Case<T, kAxes, kTaps>, int64_t channels,
                        const F& visit) {
  constexpr bool kImage = kAxes == 2 && kTaps == 2;
  if constexpr (kFew || (sizeof(T) == 4 && kTaps < 4)) {
    if (channels == 1) return visit(Channels<1>{});
  }
  if constexpr (kFew && (sizeof(T) == 4 || kImage)) {
    if (channels == 3) return visit(Channels<3>{});
  }
  if constexpr (kFew && kTaps > 1 && sizeof(T) == 4) {
    if constexpr (kImage) {
      if (channels == 2) return visit(Channels<2>{});
    }
    if constexpr (kTaps == 4) {
      if (channels == 4) return visit(Channels<4>{});
    }
  }
  visit(Channels<0>{channels});
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_TAPS_H_
