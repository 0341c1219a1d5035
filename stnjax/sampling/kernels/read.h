// Sampling at some points of one image: sums over taps.

#ifndef STNJAX_SAMPLING_KERNELS_READ_H_
#define STNJAX_SAMPLING_KERNELS_READ_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include "coordinates.h"
#include "lanes.h"
#include "places.h"
#include "taps.h"

namespace stnjax {

// Copies a pixel; with `more`, what follows it may be read and overwritten.
template <int kChannels, typename Pixel>
INLINE void copy(Channels<kChannels> channels, const Pixel* pixel,
                 Pixel* __restrict value, bool more) {
  if (kChannels == 3 && more) {
    std::memcpy(value, pixel, 4 * sizeof(Pixel));
    return;
  }
  over_channels<Pixel>(channels, [&](int64_t c, auto lanes) INLINED {
    lanes.load(pixel + c);
    lanes.store(value + c);
  });
}

// The weighted sum of the taps of one point, of two along each axis; `more` as
// for `copy`.
template <int kChannels, typename T, int kAxes, typename Taps>
INLINE void blend_corners(Channels<kChannels> channels,
                          const Places<T, kAxes, 2>& p, int64_t i,
                          const Taps& taps, T* __restrict value, bool more) {
  constexpr int kTotal = 2 * rows_of(kAxes, 2);
  T weight[kTotal];
  for (int j = 0; j < kTotal; ++j) weight[j] = p.corner[j][i];
  if constexpr (kChannels == 3 && Taps::kSideBySide) {
    Lanes<T, 4> total, pixel;
    pixel.load(taps(0, 0));
    total.set(weight[0], pixel);
    for (int j = 1; j < kTotal; ++j) {
      pixel.load(taps(j / 2, j % 2));
      total.add(weight[j], pixel);
    }
    if (more) {
      total.store(value);
    } else {
      for (int c = 0; c < 3; ++c) value[c] = total.of[0][c];
    }
  } else if constexpr (kChannels > 0) {
    for (int c = 0; c < kChannels; ++c) {
      T total = weight[0] * taps(0, 0)[c];
      for (int j = 1; j < kTotal; ++j) {
        total += weight[j] * taps(j / 2, j % 2)[c];
      }
      value[c] = total;
    }
  } else {
    over_channels<T>(channels, [&](int64_t c, auto pixel) INLINED {
      auto total = pixel;
      pixel.load(taps(0, 0) + c);
      total.set(weight[0], pixel);
      for (int j = 1; j < kTotal; ++j) {
        pixel.load(taps(j / 2, j % 2) + c);
        total.add(weight[j], pixel);
      }
      total.store(value + c);
    });
  }
}

// The weighted sum of the taps of one point, of four along each axis.
template <int kChannels, typename T, typename W, typename Taps>
INLINE void blend(Channels<kChannels> channels, const W& w, const Taps& taps,
                  T* __restrict value) {
  if constexpr (kChannels > 0) {
    Lanes<T, 4 * kChannels> sum, row;
    row.load(taps(0, 0));
    sum.set(w.row[0], row);
    for (int r = 1; r < W::kRows; ++r) {
      row.load(taps(r, 0));
      sum.add(w.row[r], row);
    }
    T sums[4 * kChannels];
    sum.store(sums);
    for (int c = 0; c < kChannels; ++c) {
      value[c] = w.x[0] * sums[c];
      for (int k = 1; k < 4; ++k) value[c] += w.x[k] * sums[k * kChannels + c];
    }
  } else {
    // As many taps at once as there are registers for.
    for (int first = 0; first < W::kRows; first += 4) {
      over_channels<T>(channels, [&](int64_t c, auto pixel) INLINED {
        auto total = pixel, row = pixel;
        if (first) total.load(value + c);
        for (int r = first; r < first + 4; ++r) {
          pixel.load(taps(r, 0) + c);
          row.set(w.x[0], pixel);
          for (int k = 1; k < 4; ++k) {
            pixel.load(taps(r, k) + c);
            row.add(w.x[k], pixel);
          }
          total.add(w.row[r], row);
        }
        total.store(value + c);
      });
    }
  }
}

// Numbers as bytes: rounded, ties to even, and kept in range.
template <typename T>
INLINE void round_off(const T* numbers, int64_t count,
                      uint8_t* __restrict bytes) {
  static_assert(std::is_same_v<T, float>);
  constexpr float kWhole = 3 << 22;  // floats around it are whole numbers
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float whole = (numbers[i] + kWhole) - kWhole;
    bytes[i] = static_cast<uint8_t>(
        std::clamp(static_cast<int32_t>(whole), 0, 255));
  }
}

// The values of points, numbers or bytes as pixels are.
template <bool kFew, typename Pixel, typename T, int kAxes, int kTaps>
INLINE void read(Case<T, kAxes, kTaps> which, const Sizes& s,
                 const Pixel* image, const Pixel* nothing,
                 const Source<T>& source, int64_t count,
                 Pixel* __restrict values) {
  // What is worked out in numbers, and the pixels are not.
  constexpr bool kRounds = kTaps > 1 && !std::is_same_v<Pixel, T>;
  constexpr bool kKnown = kFew && (kAxes == 2 || !kRounds);
  using Value = std::conditional_t<kRounds, T, Pixel>;
  std::unique_ptr<Value[]> numbers;
  if (kRounds) numbers.reset(new Value[kBlock * s.channels + 1]);
  const Rows<kAxes, kTaps> rows(s, s.channels);
  Places<T, kAxes, kTaps> p;
  T places[kAxes][kBlock];
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    const Points<T> points = points_at(s, source, start, size, places);
    place_on(which, s, points, size, false, p);
    prefetch(p, size, s.channels, rows, image);
    Value* block;
    if constexpr (kRounds) {
      block = numbers.get();
    } else {
      block = values + start * s.channels;
    }
    by_channels<kKnown>(which, s.channels, [&](auto channels) INLINED {
      visit_points(
          channels, s, p, size, rows, image, nothing,
          [&](int64_t i, const auto& taps) INLINED {
            Value* value = block + i * channels;
            const bool more = taps.kSideBySide && (kRounds || i + 1 < size);
            if constexpr (kTaps == 1) {
              copy(channels, taps(0, 0), value, more);
            } else if constexpr (kTaps == 2) {
              blend_corners(channels, p, i, taps, value, more);
            } else {
              blend(channels, stencil(p, i), taps, value);
            }
          },
          [&](int64_t i) INLINED {
            std::fill_n(block + i * channels, int64_t{channels}, Value(0));
          });
    });
    if constexpr (kRounds) {
      round_off(block, size * s.channels, values + start * s.channels);
    }
  }
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_READ_H_
