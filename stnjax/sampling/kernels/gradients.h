// Both gradients of sampling at some points of one image: sums over taps.

#ifndef STNJAX_SAMPLING_KERNELS_GRADIENTS_H_
#define STNJAX_SAMPLING_KERNELS_GRADIENTS_H_

#include <algorithm>
#include <cstdint>

#include "coordinates.h"
#include "lanes.h"
#include "places.h"
#include "taps.h"

namespace stnjax {

// The products of each tap with a cotangent, summed over channels.
template <int kTotal, int kTaps, int kChannels, typename T, typename Taps>
INLINE void products(Channels<kChannels> channels, const Taps& taps,
                     const T* cotangent, T* __restrict sums) {
  if constexpr (kChannels > 0) {
    for (int tap = 0; tap < kTotal; ++tap) {
      const T* pixel = taps(tap / kTaps, tap % kTaps);
      sums[tap] = pixel[0] * cotangent[0];
      for (int c = 1; c < kChannels; ++c) sums[tap] += pixel[c] * cotangent[c];
    }
  } else {
    for (int tap = 0; tap < kTotal; tap += 4) {
      const T* at[4];
      Lanes<T, 8> total[4] = {};
      Lanes<T, 4> half[4] = {};
      T rest[4] = {};
      for (int j = 0; j < 4; ++j) {
        at[j] = taps((tap + j) / kTaps, (tap + j) % kTaps);
      }
      over_channels<T>(channels, [&](int64_t c, auto pixel) INLINED {
        auto factor = pixel;
        factor.load(cotangent + c);
        for (int j = 0; j < 4; ++j) {
          pixel.load(at[j] + c);
          if constexpr (pixel.kNumbers == 8) {
            total[j].add(pixel, factor);
          } else if constexpr (pixel.kNumbers == 4) {
            half[j].add(pixel, factor);
          } else {
            rest[j] += at[j][c] * cotangent[c];
          }
        }
      });
      for (int j = 0; j < 4; ++j) {
        sums[tap + j] = total[j].sum() + half[j].sum() + rest[j];
      }
    }
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
INLINE void slopes(Channels<kChannels> channels,
                   const Places<T, kAxes, kTaps>& p, int64_t i,
                   const Taps& taps, const T* cotangent,
                   T* __restrict slope) {
  constexpr int kRows = rows_of(kAxes, kTaps);
  if constexpr (kTaps == 2) {
    T sums[kRows * 2];
    products<kRows * 2, 2>(channels, taps, cotangent, sums);
    differences(p, i, sums, slope);
    return;
  } else {
    Stencil<T, kAxes, kTaps> w[kAxes];
    for (int a = 0; a < kAxes; ++a) w[a] = slope_stencil(p, a, i);
    if constexpr (kChannels > 0) {
      Lanes<T, 4 * kChannels> sums[kAxes], row;
      row.load(taps(0, 0));
      for (int a = 0; a < kAxes; ++a) sums[a].set(w[a].row[0], row);
      for (int r = 1; r < kRows; ++r) {
        row.load(taps(r, 0));
        for (int a = 0; a < kAxes; ++a) sums[a].add(w[a].row[r], row);
      }
      for (int a = 0; a < kAxes; ++a) {
        Lanes<T, 4 * kChannels> total = {};
        total.add(sums[a], outer<kChannels>(w[a].x, cotangent));
        slope[a] = total.sum();
      }
    } else {
      T sums[kRows * kTaps];
      products<kRows * kTaps, kTaps>(channels, taps, cotangent, sums);
      for (int a = 0; a < kAxes; ++a) {
        T columns[kTaps] = {};
        for (int r = 0; r < kRows; ++r) {
          for (int k = 0; k < kTaps; ++k) {
            columns[k] += w[a].row[r] * sums[r * kTaps + k];
          }
        }
        slope[a] = 0;
        for (int k = 0; k < kTaps; ++k) slope[a] += w[a].x[k] * columns[k];
      }
    }
  }
}

// Slopes along each axis of sum(values * cotangent), of the points of a block.
template <bool kFew, typename T, int kAxes, int kTaps>
INLINE void block_slopes(Case<T, kAxes, kTaps> which, const Sizes& s,
                         const Rows<kAxes, kTaps>& rows, const T* image,
                         const T* nothing, const Points<T>& points,
                         const T* cotangent, int64_t count,
                         const Points<T, T>& gradients) {
  Places<T, kAxes, kTaps> p;
  place_on(which, s, points, count, true, p);
  prefetch(p, count, s.channels, rows, image);
  by_channels<kFew>(which, s.channels, [&](auto channels) INLINED {
    visit_points(
        channels, s, p, count, rows, image, nothing,
        [&](int64_t i, const auto& taps) INLINED {
          T slope[kAxes];
          slopes(channels, p, i, taps, cotangent + i * channels, slope);
          for (int a = 0; a < kAxes; ++a) gradients.along[a][i] = slope[a];
        },
        [&](int64_t i) INLINED {
          for (int a = 0; a < kAxes; ++a) gradients.along[a][i] = 0;
        });
  });
}

// The same of any points.
template <bool kFew, typename T, int kAxes, int kTaps>
INLINE void grad_coords(Case<T, kAxes, kTaps> which, const Sizes& s,
                        const T* image, const T* nothing,
                        const Points<T>& points, const T* cotangent,
                        int64_t count, const Points<T, T>& gradients) {
  const Rows<kAxes, kTaps> rows(s, s.channels);
  for (int64_t start = 0; start < count; start += kBlock) {
    block_slopes<kFew>(which, s, rows, image, nothing, points.from(start),
                       cotangent + start * s.channels,
                       std::min(kBlock, count - start), gradients.from(start));
  }
}

// Adds the gradient of the matrix that takes pixels to the points.
template <bool kFew, typename T, int kAxes, int kTaps>
INLINE void grad_matrix(Case<T, kAxes, kTaps> which, const Sizes& s,
                        const T* image, const T* nothing,
                        const Source<T>& source, const T* cotangent,
                        int64_t count, double* matrix) {
  const Rows<kAxes, kTaps> rows(s, s.channels);
  T places[kAxes][kBlock], signs[kAxes][kBlock], slopes[kAxes][kBlock];
  Points<T> points = {};
  Points<T, T> gradients = {};
  for (int a = 0; a < kAxes; ++a) {
    points.along[a] = places[a];
    gradients.along[a] = slopes[a];
  }
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    map_on(Case<T, kAxes, 0>{}, s, source, start, size, places, signs);
    block_slopes<kFew>(which, s, rows, image, nothing, points,
                       cotangent + start * s.channels, size, gradients);
    for (int a = 0; a < kAxes; ++a) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {  // 0 also where slopes are NaN
        const T sign = signs[a][i];
        slopes[a][i] = sign == 0 ? T(0) : sign * slopes[a][i];
      }
    }
    add_moments<kAxes>(source, start, size, slopes, matrix);
  }
}

template <int kChannels, typename T>
INLINE void add_scaled(Channels<kChannels> channels, T weight, const T* value,
                       T* pixel) {
  if constexpr (kChannels > 0) {
    for (int c = 0; c < kChannels; ++c) pixel[c] += weight * value[c];
  } else {
    over_channels<T>(channels, [&](int64_t c, auto lanes) INLINED {
      auto factor = lanes;
      factor.load(value + c);
      lanes.load(pixel + c);
      lanes.add(weight, factor);
      lanes.store(pixel + c);
    });
  }
}

// Adds the value of one point to its taps, of those that there are.
template <int kTaps, int kChannels, typename T, typename W, typename Taps>
INLINE void add(Channels<kChannels> channels, const W& w, const Taps& taps,
                const T* __restrict value) {
  if constexpr (!Taps::kSideBySide) {
#pragma GCC unroll 1
    for (int r = 0; r < W::kRows; ++r) {
      if (taps.row[r] < 0) continue;
      for (int k = 0; k < kTaps; ++k) {
        if (taps.column[k] < 0) continue;
        const T weight = kTaps == 1 ? T(1) : w.row[r] * w.x[k];
        T* pixel = taps(r, k);
        add_scaled(channels, weight, value, pixel);
      }
    }
  } else if constexpr (kTaps == 4 && kChannels == 1) {
    T parts[4];
    for (int k = 0; k < 4; ++k) parts[k] = w.x[k] * *value;
    for (int r = 0; r < W::kRows; ++r) {
      T* row = taps(r, 0);
      for (int k = 0; k < 4; ++k) row[k] += w.row[r] * parts[k];
    }
  } else if constexpr (kTaps == 4 && kChannels > 0) {
    const auto part = outer<kChannels>(w.x, value);
    for (int r = 0; r < W::kRows; ++r) {
      Lanes<T, 4 * kChannels> row;
      row.load(taps(r, 0));
      row.add(w.row[r], part);
      row.store(taps(r, 0));
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
      if constexpr (kChannels > 0) {
        for (int c = 0; c < kChannels; ++c) {
          for (int j = 0; j < kOnce; ++j) at[j][c] += weight[j] * value[c];
        }
      } else {
        over_channels<T>(channels, [&](int64_t c, auto pixel) INLINED {
          auto factor = pixel;
          factor.load(value + c);
          for (int j = 0; j < kOnce; ++j) {
            pixel.load(at[j] + c);
            pixel.add(weight[j], factor);
            pixel.store(at[j] + c);
          }
        });
      }
    }
  }
}

// Adds values to the pixels that they were read from.
template <bool kFew, typename T, int kAxes, int kTaps>
INLINE void grad_image(Case<T, kAxes, kTaps> which, const Sizes& s,
                       const T* values, const Source<T>& source, int64_t count,
                       T* image) {
  const Rows<kAxes, kTaps> rows(s, s.channels);
  Places<T, kAxes, kTaps> p;
  T places[kAxes][kBlock];
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    const Points<T> points = points_at(s, source, start, size, places);
    place_on(which, s, points, size, false, p);
    prefetch(p, size, s.channels, rows, image);
    const T* block = values + start * s.channels;
    by_channels<kFew>(which, s.channels, [&](auto channels) INLINED {
      visit_points(
          channels, s, p, size, rows, image, image,
          [&](int64_t i, const auto& taps) INLINED {
            add<kTaps>(channels, stencil(p, i), taps, block + i * channels);
          },
          [](int64_t) INLINED {});
    });
  }
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_GRADIENTS_H_
