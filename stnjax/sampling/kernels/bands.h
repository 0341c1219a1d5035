// Products of a banded matrix with arrays along an axis.
//
// Arrays are [lines, size, inner], row-major; results [lines, count, inner].
// Each result reads `taps` numbers along the axis, from its start on, with the
// weights [count, taps].

#ifndef STNJAX_SAMPLING_KERNELS_BANDS_H_
#define STNJAX_SAMPLING_KERNELS_BANDS_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "places.h"

namespace stnjax {

struct Band {
  int64_t lines, size, count, inner, taps;
};

constexpr int64_t kAcross = 1024;  // numbers of a result that a task writes
constexpr int64_t kDown = 32;      // results one below the other, of a task

// One result of `width` numbers, or bytes, side by side.
template <typename Number, typename T>
INLINE void combine(const Number* numbers, int64_t step, const T* weights,
                    int64_t taps, int64_t width, T* result) {
  int64_t k = taps % 2;
  for (int64_t j = 0; j < width; ++j) {
    result[j] = k ? weights[0] * numbers[j] : T(0);
  }
  for (; k < taps; k += 2) {
    const Number *one = numbers + k * step, *other = one + step;
    const T first = weights[k], second = weights[k + 1];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      result[j] += first * one[j] + second * other[j];
    }
  }
}

// The same of a few numbers, next to each other along the axis, too.
template <int kInner, typename Number, typename T>
INLINE void combine_few(const Number* numbers, const T* weights, int64_t taps,
                        T* result) {
  T even[kInner] = {}, odd[kInner] = {};
  int64_t k = 0;
  for (; k + 2 <= taps; k += 2) {
    for (int j = 0; j < kInner; ++j) {
      even[j] += weights[k] * numbers[k * kInner + j];
      odd[j] += weights[k + 1] * numbers[(k + 1) * kInner + j];
    }
  }
  if (k < taps) {
    for (int j = 0; j < kInner; ++j) {
      even[j] += weights[k] * numbers[k * kInner + j];
    }
  }
  for (int j = 0; j < kInner; ++j) result[j] = even[j] + odd[j];
}

// What results from `first` to `last` read of a line, from `start` on: its
// numbers, or bytes as numbers, each turned into one once.
template <typename Number, typename T>
struct Read {
  int64_t start = 0;
  const T* numbers;
  std::vector<T> copy;

  INLINE Read(const Band& s, const Number* line, const int32_t* starts,
              int64_t first, int64_t last) {
    if constexpr (std::is_same_v<Number, T>) {
      numbers = line;
    } else {
      const auto ends = std::minmax_element(starts + first, starts + last);
      start = *ends.first;
      const int64_t count = (*ends.second + s.taps - start) * s.inner;
      copy.resize(count);
      T* to = copy.data();
      const Number* from = line + start * s.inner;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
      numbers = to;
    }
  }
};

// Results from `first` to `last` of a line, and of them `width` numbers.
template <typename Number, typename T>
INLINE void combine_range(const Band& s, const Number* numbers, const T* weights,
                          const int32_t* starts, int64_t first, int64_t last,
                          int64_t width, T* results) {
  const auto few = [&](auto known) INLINED {
    const Read<Number, T> read(s, numbers, starts, first, last);
    for (int64_t i = first; i < last; ++i) {
      combine_few<decltype(known)::value>(
          read.numbers + (starts[i] - read.start) * s.inner,
          weights + i * s.taps, s.taps, results + i * s.inner);
    }
  };
  switch (s.inner) {
    case 1:
      return few(std::integral_constant<int, 1>());
    case 2:
      return few(std::integral_constant<int, 2>());
    case 3:
      return few(std::integral_constant<int, 3>());
    case 4:
      return few(std::integral_constant<int, 4>());
    default:
      for (int64_t i = first; i < last; ++i) {
        combine(numbers + starts[i] * s.inner, s.inner, weights + i * s.taps,
                s.taps, width, results + i * s.inner);
      }
  }
}

// Calls `visit(line, first, last, column, width)` for ranges of results, on the
// pool's threads.
template <typename Pool, typename F>
void over_ranges(Pool& pool, const Band& s, const F& visit) {
  const int64_t columns = (s.inner + kAcross - 1) / kAcross;
  const int64_t rows = (s.count + kDown - 1) / kDown;
  const int64_t each = std::min(s.inner, kAcross) * std::min(s.count, kDown);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, each));
  const int64_t all = s.lines * columns * rows;
  in_parallel(pool, all, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t line = task / (columns * rows);
      const int64_t column = task / rows % columns * kAcross;
      const int64_t first = task % rows * kDown;
      visit(line, first, std::min(s.count, first + kDown), column,
            std::min(s.inner - column, kAcross));
    }
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_BANDS_H_
