// Coordinates: those that a matrix takes pixels to, brought into the image.

#ifndef STNJAX_SAMPLING_KERNELS_COORDINATES_H_
#define STNJAX_SAMPLING_KERNELS_COORDINATES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "places.h"

namespace stnjax {

// The remainders of numbers divided by a whole number, with their signs.
template <typename T>
INLINE void remainders(const T* numbers, int64_t count, int64_t period,
                       T* rests) {
  constexpr T kSmall = 1 << 30;
  int32_t small = 1;
#pragma omp simd reduction(& : small)
  for (int64_t i = 0; i < count; ++i) {
    small &= std::abs(numbers[i]) < kSmall ? 1 : 0;  // not for NaN
  }
  const T rounded = static_cast<T>(period);  // as a number of XLA's
  const double divisor = rounded, inverse = 1 / divisor;
  if (!small) {
    for (int64_t i = 0; i < count; ++i) {
      rests[i] = std::fmod(numbers[i], rounded);
    }
    return;
  }
  // The quotient can be one off where the rest is next to 0; all else is exact.
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double size = std::abs(static_cast<double>(numbers[i]));
    const double whole = static_cast<int32_t>(size * inverse);
    double rest = size - whole * divisor;
    rest = rest < 0 ? rest + divisor : rest;
    rest = rest < divisor ? rest : rest - divisor;
    rests[i] = std::copysign(static_cast<T>(rest), numbers[i]);
  }
}

// How places change where coordinates are brought into the image by them: 1, -1
// where the image is mirrored, and 0 where they are clamped; or null.
template <typename T>
using Signs = T (*)[kBlock];

// Brings coordinates of any size into an image that repeats, or for four taps
// less than a period from 0: `apply_padding` and `near` in padding.py.
template <bool kSigns, typename T>
INLINE void fold(const Axis& axis, bool four_taps, int64_t count,
                 T* __restrict places, T* __restrict signs) {
  constexpr T kLimit = std::numeric_limits<T>::max() / 8;
  T rests[kBlock];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T place = places[i];
    if (kSigns) signs[i] = place > -kLimit && place < kLimit ? T(1) : T(0);
    places[i] = place < -kLimit ? -kLimit : place > kLimit ? kLimit : place;
  }
  remainders(places, count, axis.period, rests);
  const T last = T(axis.size - 1), period = T(axis.period);
  if (!four_taps && axis.period > axis.size) {  // mirrored
    // The lowest place: the edge of the first pixel, or its centre.
    const T low = T(axis.size - 2 - axis.beyond) / 2, high = last - low;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const bool before = places[i] < low;
      const T rest = before ? 2 * low - rests[i] : rests[i];
      const bool after = !(rest < high);
      const T place = after ? 2 * high - rest : rest;
      if (kSigns) {
        const T kept = place > 0 && place < last ? signs[i] : T(0);
        signs[i] = before != after ? -kept : kept;
      }
      places[i] = place < 0 ? T(0) : place > last ? last : place;
    }
  } else if (!four_taps) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const T rest = rests[i] < 0 ? rests[i] + period : rests[i];
      places[i] = rest < period ? rest : rest - period;  // the sum may round up
    }
  } else {
    std::copy_n(rests, count, places);
  }
}

// The same for an image that continues with its outermost pixels.
template <typename T>
INLINE void clamp(const Axis& axis, bool four_taps, int64_t count,
                  T* __restrict places, T* __restrict signs) {
  const T beyond = four_taps ? 4 : 0;
  const T low = -beyond, high = T(axis.size - 1) + beyond;
  if (signs) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      signs[i] = places[i] > low && places[i] < high ? T(1) : T(0);
    }
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T place = places[i];
    places[i] = place < low ? low : place > high ? high : place;
  }
}

// Calls `visit(from, until, at)` on the rows of some pixels of a result, where
// `at` are coordinates of the first pixel of a row from the middle.
template <int kAxes, typename T, typename F>
INLINE void over_rows(const Source<T>& source, int64_t start, int64_t count,
                      const F& visit) {
  const int64_t width = source.shape[0];
  int64_t row = (source.first + start) / width;
  int64_t column = (source.first + start) % width;
  const auto middle = [&](int a) { return T(source.shape[a] - 1) / 2; };
  for (int64_t from = 0; from < count;) {
    const int64_t until = std::min(count, from + width - column);
    int64_t other = row;  // along the axes beside x
    T at[kAxes];
    at[0] = T(column) - middle(0);
    for (int a = 1; a < kAxes; ++a) {
      at[a] = T(other % source.shape[a]) - middle(a);
      other /= source.shape[a];
    }
    visit(from, until, at);
    from = until;
    column = 0;
    ++row;
  }
}

// Where a matrix takes some pixels of a result, brought into the image.
template <int kAxes, typename T>
INLINE void map_pixels(const Sizes& s, const Source<T>& source, int64_t start,
                       int64_t count, T (*places)[kBlock], Signs<T> signs) {
  over_rows<kAxes>(source, start, count, [&](int64_t from, int64_t until,
                                             const T* at) INLINED {
    for (int a = 0; a < kAxes; ++a) {
      const T* weights = source.matrix + a * (kAxes + 1);
      T shift = weights[kAxes];
      for (int b = kAxes - 1; b > 0; --b) shift = weights[b] * at[b] + shift;
      const T scale = weights[0], left = at[0];
      const T centre = T(s.axes[a].size - 1) / 2;
      T* __restrict along = places[a] + from;
#pragma omp simd
      for (int32_t i = 0; i < static_cast<int32_t>(until - from); ++i) {
        along[i] = (scale * (left + T(i)) + shift) + centre;
      }
    }
  });
  const bool four_taps = taps_of(s.weighting) == 4;
  for (int a = 0; a < kAxes; ++a) {
    T* sign = signs ? signs[a] : nullptr;
    if (s.axes[a].fills()) {
      if (sign) std::fill_n(sign, count, T(1));
    } else if (s.axes[a].period && sign) {
      fold<true>(s.axes[a], four_taps, count, places[a], sign);
    } else if (s.axes[a].period) {
      fold<false>(s.axes[a], four_taps, count, places[a], sign);
    } else {
      clamp(s.axes[a], four_taps, count, places[a], sign);
    }
  }
}

// Some points of a result, which are put to `places` unless they are given.
template <int kAxes, typename T>
INLINE Points<T> points_at(const Sizes& s, const Source<T>& source,
                           int64_t start, int64_t count,
                           T (&places)[kAxes][kBlock]) {
  if (!source.matrix) return source.points.from(start);
  map_on(Case<T, kAxes, 0>{}, s, source, start, count, places, nullptr);
  Points<T> points = {};
  for (int a = 0; a < kAxes; ++a) points.along[a] = places[a];
  return points;
}

// Adds the gradient of the matrix, given those of the places before they were
// brought into the image.
template <int kAxes, typename T>
INLINE void add_moments(const Source<T>& source, int64_t start, int64_t count,
                        const T (*slopes)[kBlock], double* matrix) {
  over_rows<kAxes>(source, start, count, [&](int64_t from, int64_t until,
                                             const T* at) INLINED {
    for (int a = 0; a < kAxes; ++a) {
      const T* slope = slopes[a] + from;
      const T left = at[0];
      T sum = 0, moment = 0;
#pragma omp simd reduction(+ : sum, moment)
      for (int32_t i = 0; i < static_cast<int32_t>(until - from); ++i) {
        sum += slope[i];
        moment += slope[i] * (left + T(i));
      }
      double* row = matrix + a * (kAxes + 1);
      row[0] += moment;
      for (int b = 1; b < kAxes; ++b) row[b] += double(at[b]) * sum;
      row[kAxes] += sum;
    }
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_COORDINATES_H_
