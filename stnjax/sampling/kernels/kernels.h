// Sampling at some points of one image, and both gradients: sums over taps.

#ifndef STNJAX_SAMPLING_KERNELS_KERNELS_H_
#define STNJAX_SAMPLING_KERNELS_KERNELS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "places.h"

namespace stnjax {

// Asks for the pixels of a block, which lie across the image, ahead of time.
template <typename T, int kAxes, int kTaps>
INLINE void prefetch(const Places<T, kAxes, kTaps>& p, int64_t count,
                     int64_t channels, const int64_t* rows, const T* image) {
#if defined(__GNUC__)
  constexpr int kRows = Stencil<T, kAxes, kTaps>::kRows;
  for (int64_t i = 0; i < count; i += 4) {
    const T* pixel = image + p.first[i] * channels;
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(pixel + rows[r]);
  }
#endif
}

// Visits the points of a block: `inside(i)` in a loop of its own over each run
// of points whose taps are all pixels, so that it has no branches.
template <typename Places, typename Inside, typename OnEdge, typename Nowhere>
INLINE void by_state(const Places& p, int64_t count, const Inside& inside,
                     const OnEdge& on_edge, const Nowhere& nowhere) {
  for (int64_t i = 0; i < count;) {
    const int32_t state = p.state[i];
    int64_t end = i + 1;
    while (end < count && p.state[end] == state) ++end;
    if (state == kInside) {
      for (; i < end; ++i) inside(i);
    } else if (state == kOnEdge) {
      for (; i < end; ++i) on_edge(i);
    } else {
      for (; i < end; ++i) nowhere(i);
    }
  }
}

// Offsets in an image from the first tap to the taps of each row.
template <int kAxes, int kTaps>
struct Rows {
  static constexpr int kRows = kAxes == 2 ? kTaps : kTaps * kTaps;
  int64_t at[kRows];

  Rows(const Sizes& s, int64_t channels) {
    const int64_t row = s.axes[0].size * channels;
    for (int r = 0; r < kRows; ++r) {
      at[r] = r % kTaps * row;
      if constexpr (kAxes == 3) at[r] += r / kTaps * row * s.axes[1].size;
    }
  }
};

// The taps of a point that are all pixels: those of a row lie side by side.
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

// The taps of any point: `nothing` where they are no pixel. Pixel is T or const T.
template <typename Pixel, int kAxes, int kTaps>
struct TapsOnEdge {
  static constexpr bool kSideBySide = false;
  static constexpr int kRows = Stencil<Pixel, kAxes, kTaps>::kRows;
  Pixel* at[kRows * kTaps];

  template <typename T>
  INLINE TapsOnEdge(const Sizes& s, const Places<T, kAxes, kTaps>& p,
                    int64_t i, int64_t channels, Pixel* image,
                    Pixel* nothing) {
    int32_t pixel[kAxes][kTaps];
    for (int a = 0; a < kAxes; ++a) {
      for (int k = 0; k < kTaps; ++k) {
        pixel[a][k] = s.axes[a].pixel<kTaps>(p.at[a][i] + k);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int64_t row = pixel[1][r % kTaps];
      bool exists = row >= 0;
      if constexpr (kAxes == 3) {
        const int64_t plane = pixel[2][r / kTaps];
        exists &= plane >= 0;
        row += plane * s.axes[1].size;
      }
      row *= s.axes[0].size;
      for (int k = 0; k < kTaps; ++k) {
        const bool some = exists && pixel[0][k] >= 0;
        at[r * kTaps + k] =
            some ? image + (row + pixel[0][k]) * channels : nothing;
      }
    }
  }

  INLINE Pixel* operator()(int row, int tap) const {
    return at[row * kTaps + tap];
  }
};

// Of each column of taps, and channel, the sum over rows.
template <int kNumbers, typename T, typename W, typename Taps>
INLINE void sum_of_rows(const W& w, const Taps& taps, T* __restrict sums) {
  for (int j = 0; j < kNumbers; ++j) sums[j] = w.row[0] * taps(0, 0)[j];
  for (int r = 1; r < W::kRows; ++r) {
    const T* row = taps(r, 0);
    for (int j = 0; j < kNumbers; ++j) sums[j] += w.row[r] * row[j];
  }
}

// The weighted sum of the taps of one point.
template <int kTaps, int kChannels, typename T, typename W, typename Taps>
INLINE void blend(const W& w, const Taps& taps, int64_t channels,
                  T* __restrict value) {
  if constexpr (kTaps == 1) {
    const T* pixel = taps(0, 0);
    for (int64_t c = 0; c < channels; ++c) value[c] = pixel[c];
  } else if constexpr (kTaps == 4 && kChannels > 0 && Taps::kSideBySide) {
    T sums[kTaps * kChannels];
    sum_of_rows<kTaps * kChannels>(w, taps, sums);
    for (int c = 0; c < kChannels; ++c) {
      T total = 0;
      for (int k = 0; k < kTaps; ++k) total += w.x[k] * sums[k * kChannels + c];
      value[c] = total;
    }
  } else if constexpr (kTaps == 2) {
    constexpr int kTotal = W::kRows * 2;
    const T* at[kTotal];
    T weight[kTotal];
    for (int tap = 0; tap < kTotal; ++tap) {
      at[tap] = taps(tap / 2, tap % 2);
      weight[tap] = w.row[tap / 2] * w.x[tap % 2];
    }
    for (int64_t c = 0; c < channels; ++c) {
      T total = weight[0] * at[0][c];
      for (int tap = 1; tap < kTotal; ++tap) total += weight[tap] * at[tap][c];
      value[c] = total;
    }
  } else {
    // As many taps at once as there are registers for.
    for (int first = 0; first < W::kRows; first += kTaps) {
      const T* at[kTaps][kTaps];
      T weight[kTaps];
      for (int r = 0; r < kTaps; ++r) {
        weight[r] = w.row[first + r];
        for (int k = 0; k < kTaps; ++k) at[r][k] = taps(first + r, k);
      }
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        T total = 0;
        for (int r = 0; r < kTaps; ++r) {
          T row = 0;
          for (int k = 0; k < kTaps; ++k) row += w.x[k] * at[r][k][c];
          total += weight[r] * row;
        }
        value[c] = first ? value[c] + total : total;
      }
    }
  }
}

template <bool kWithSlopes, typename T, int kAxes, int kTaps>
INLINE void place(const Sizes& s, const Points<T>& points, int64_t count,
                  Places<T, kAxes, kTaps>& p) {
  if constexpr (kTaps == 4) {
    place_on(Case<T, kAxes, kTaps>{}, s, points, count, kWithSlopes, p);
  } else {
    locate(s, points, count, p);
  }
}

// kChannels is the number of channels where it is known, else 0.
template <int kChannels, int kAxes, int kTaps, typename T>
INLINE void read(const Sizes& s, const T* image, const T* nothing,
                 const Points<T>& points, int64_t count,
                 T* __restrict values) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  const Rows<kAxes, kTaps> rows(s, channels);
  Places<T, kAxes, kTaps> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    place<false>(s, points.from(start), size, p);
    prefetch(p, size, channels, rows.at, image);
    T* block = values + start * channels;
    by_state(
        p, size,
        [&](int64_t i) INLINED {
          const TapsInside<const T, kAxes, kTaps> taps{
              image + p.first[i] * channels, rows, channels};
          blend<kTaps, kChannels>(stencil(p, i), taps, channels,
                                  block + i * channels);
        },
        [&](int64_t i) INLINED {
          const TapsOnEdge<const T, kAxes, kTaps> taps(s, p, i, channels,
                                                        image, nothing);
          blend<kTaps, kChannels>(stencil(p, i), taps, channels,
                                  block + i * channels);
        },
        [&](int64_t i) INLINED {
          std::fill_n(block + i * channels, channels, T(0));
        });
  }
}

// The products of each tap with a cotangent, summed over channels.
template <int kChannels, int kTotal, int kTaps, typename T, typename Taps>
INLINE void products(const Taps& taps, const T* cotangent, int64_t channels,
                     T* __restrict sums) {
  if constexpr (kChannels > 0) {
    for (int tap = 0; tap < kTotal; ++tap) {
      const T* pixel = taps(tap / kTaps, tap % kTaps);
      sums[tap] = pixel[0] * cotangent[0];
      for (int c = 1; c < kChannels; ++c) sums[tap] += pixel[c] * cotangent[c];
    }
    return;
  }
  for (int tap = 0; tap < kTotal; tap += 4) {
    const T* at[4];
    for (int j = 0; j < 4; ++j) {
      at[j] = taps((tap + j) / kTaps, (tap + j) % kTaps);
    }
    const T *first = at[0], *second = at[1], *third = at[2], *fourth = at[3];
    T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (int64_t k = 0; k < channels; ++k) {
      a += first[k] * cotangent[k];
      b += second[k] * cotangent[k];
      c += third[k] * cotangent[k];
      d += fourth[k] * cotangent[k];
    }
    sums[tap] = a;
    sums[tap + 1] = b;
    sums[tap + 2] = c;
    sums[tap + 3] = d;
  }
}

// Along each axis the difference of its two taps, blended along the others.
template <int kAxes, typename T>
INLINE void differences(const Places<T, kAxes, 2>& p, int64_t i, const T* sums,
                        T* __restrict slope) {
  T flat[4];
  for (int j = 0; j < 4; ++j) flat[j] = sums[j];
  const T x = p.part[0][i], y = p.part[1][i];
  if constexpr (kAxes == 3) {
    const T z = p.part[2][i];
    T apart[4];
    for (int j = 0; j < 4; ++j) {
      apart[j] = sums[4 + j] - sums[j];
      flat[j] = (1 - z) * sums[j] + z * sums[4 + j];
    }
    slope[2] = (1 - y) * ((1 - x) * apart[0] + x * apart[1]) +
               y * ((1 - x) * apart[2] + x * apart[3]);
  }
  slope[0] = (1 - y) * (flat[1] - flat[0]) + y * (flat[3] - flat[2]);
  slope[1] = (1 - x) * (flat[2] - flat[0]) + x * (flat[3] - flat[1]);
}

// The derivatives of one point's value, times the cotangent, along all axes.
template <int kChannels, int kAxes, int kTaps, typename T, typename Taps>
INLINE void slopes(const Places<T, kAxes, kTaps>& p, int64_t i,
                   const Taps& taps, const T* cotangent, int64_t channels,
                   T* __restrict slope) {
  constexpr int kRows = Stencil<T, kAxes, kTaps>::kRows;
  if constexpr (kTaps == 4 && kChannels > 0 && Taps::kSideBySide) {
    for (int a = 0; a < kAxes; ++a) {
      const auto w = slope_stencil(p, a, i);
      T sums[kTaps * kChannels];
      sum_of_rows<kTaps * kChannels>(w, taps, sums);
      slope[a] = 0;
      for (int k = 0; k < kTaps; ++k) {
        T product = 0;
        for (int c = 0; c < kChannels; ++c) {
          product += sums[k * kChannels + c] * cotangent[c];
        }
        slope[a] += w.x[k] * product;
      }
    }
  } else {
    T sums[kRows * kTaps];
    products<kChannels, kRows * kTaps, kTaps>(taps, cotangent, channels, sums);
    if constexpr (kTaps == 2) return differences(p, i, sums, slope);
    for (int a = 0; a < kAxes; ++a) {
      const auto w = slope_stencil(p, a, i);
      T columns[kTaps] = {};
      for (int r = 0; r < kRows; ++r) {
        for (int k = 0; k < kTaps; ++k) {
          columns[k] += w.row[r] * sums[r * kTaps + k];
        }
      }
      slope[a] = 0;
      for (int k = 0; k < kTaps; ++k) slope[a] += w.x[k] * columns[k];
    }
  }
}

// Slopes along each axis of sum(values * cotangent).
template <int kChannels, int kAxes, int kTaps, typename T>
INLINE void grad_coords(const Sizes& s, const T* image, const T* nothing,
                        const Points<T>& points, const T* cotangent,
                        int64_t count, const Points<T, T>& gradients) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  const Rows<kAxes, kTaps> rows(s, channels);
  Places<T, kAxes, kTaps> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    place<true>(s, points.from(start), size, p);
    prefetch(p, size, channels, rows.at, image);
    const auto write = [&](int64_t i, const auto& taps) INLINED {
      T slope[kAxes];
      slopes<kChannels>(p, i, taps, cotangent + (start + i) * channels,
                        channels, slope);
      for (int a = 0; a < kAxes; ++a) gradients.along[a][start + i] = slope[a];
    };
    by_state(
        p, size,
        [&](int64_t i) INLINED {
          write(i, TapsInside<const T, kAxes, kTaps>{
                       image + p.first[i] * channels, rows, channels});
        },
        [&](int64_t i) INLINED {
          write(i, TapsOnEdge<const T, kAxes, kTaps>(s, p, i, channels, image,
                                                      nothing));
        },
        [&](int64_t i) INLINED {
          for (int a = 0; a < kAxes; ++a) gradients.along[a][start + i] = 0;
        });
  }
}

// Adds the value of one point to its taps.
template <int kTaps, int kChannels, typename T, typename W, typename Taps>
INLINE void add(const W& w, const Taps& taps, const T* __restrict value,
                int64_t channels) {
  if constexpr (kTaps == 4 && kChannels > 0 && Taps::kSideBySide) {
    T parts[kTaps * kChannels];
    for (int k = 0; k < kTaps; ++k) {
      for (int c = 0; c < kChannels; ++c) {
        parts[k * kChannels + c] = w.x[k] * value[c];
      }
    }
    for (int r = 0; r < W::kRows; ++r) {
      T* row = taps(r, 0);
      for (int j = 0; j < kTaps * kChannels; ++j) row[j] += w.row[r] * parts[j];
    }
  } else {
    constexpr int kTotal = W::kRows * kTaps, kOnce = std::min(4, kTotal);
    for (int first = 0; first < kTotal; first += kOnce) {
      T* at[kOnce];
      T weight[kOnce];
      for (int j = 0; j < kOnce; ++j) {
        const int row = (first + j) / kTaps, tap = (first + j) % kTaps;
        at[j] = taps(row, tap);
        weight[j] = kTaps == 1 ? T(1) : w.row[row] * w.x[tap];
      }
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) {
        for (int j = 0; j < kOnce; ++j) at[j][c] += weight[j] * value[c];
      }
    }
  }
}

// Adds values to the pixels that they were read from.
template <int kChannels, int kAxes, int kTaps, typename T>
INLINE void grad_image(const Sizes& s, const T* values,
                       const Points<T>& points, int64_t count, T* image) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  const Rows<kAxes, kTaps> rows(s, channels);
  std::vector<T> nothing(channels);
  Places<T, kAxes, kTaps> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    place<false>(s, points.from(start), size, p);
    prefetch(p, size, channels, rows.at, image);
    const T* block = values + start * channels;
    by_state(
        p, size,
        [&](int64_t i) INLINED {
          const TapsInside<T, kAxes, kTaps> taps{image + p.first[i] * channels,
                                                 rows, channels};
          add<kTaps, kChannels>(stencil(p, i), taps, block + i * channels,
                                channels);
        },
        [&](int64_t i) INLINED {
          const TapsOnEdge<T, kAxes, kTaps> taps(s, p, i, channels, image,
                                                  nothing.data());
          add<kTaps, kChannels>(stencil(p, i), taps, block + i * channels,
                                channels);
        },
        [](int64_t) INLINED {});
  }
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_KERNELS_H_
