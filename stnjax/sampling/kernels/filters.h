// Symmetric filters along an axis, and the gradient of their weights.
//
// Arrays are [batch, lines, size, inner], row-major, filtered along `size`;
// weights, of the distances from 0 on, are [batch, taps]. A filter sums
// w[0] x[i] and, for each distance d up to the image's reach,
// w[d] (x[i - d] + x[i + d]).

#ifndef STNJAX_SAMPLING_KERNELS_FILTERS_H_
#define STNJAX_SAMPLING_KERNELS_FILTERS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "places.h"

namespace stnjax {

// A line is one row of size * inner numbers, in which a distance of 1 is
// `inner` numbers. Outside of it is 0, or the line again where it is cyclic.
struct Lines {
  int64_t batch, lines, size, inner, taps;
  bool cyclic;

  int64_t numbers() const { return size * inner; }
};

constexpr int64_t kStrip = 512;  // numbers filtered at once, kept in the cache
constexpr int64_t kStrips = 64;  // of a task, one below the other

// The numbers from `start` on, `count` of them, of a line.
struct Strip {
  int64_t start, count;
};

// How a line is cut: strips of rows that are long, or of all of it.
struct Cut {
  int64_t columns, rows, tasks;  // of strips, and tasks of one line

  explicit Cut(const Lines& s) {
    const bool wide = s.inner >= kStrip;
    columns = wide ? (s.inner + kStrip - 1) / kStrip : 1;
    rows = wide ? s.size : (s.numbers() + kStrip - 1) / kStrip;
    tasks = columns * ((rows + kStrips - 1) / kStrips);
  }

  // Calls `visit(strip)` on those of a task, each row below the one before.
  template <typename F>
  INLINE void over_strips(const Lines& s, int64_t task, const F& visit) const {
    const int64_t step = s.inner >= kStrip ? s.inner : kStrip;
    const int64_t column = task % columns * kStrip;
    const int64_t first = task / columns * kStrips;
    for (int64_t row = first; row < std::min(rows, first + kStrips); ++row) {
      const int64_t start = row * step + column;
      const int64_t end = std::min(s.numbers(), (row + 1) * step);
      visit(Strip{start, std::min(kStrip, end - start)});
    }
  }
};

// Calls `both(left, right)` and `one(at, from, to)` on ranges of a strip that
// have numbers at a distance: those which have two, at `left` and `right`; and
// those from `from` to `to` whose number is at `at`, counted from their start.
template <typename F, typename G>
INLINE void at_distance(const Lines& s, Strip strip, int64_t distance,
                        const F& both, const G& one) {
  const int64_t shift = distance * s.inner, all = s.numbers();
  const int64_t left = strip.start - shift, right = strip.start + shift;
  const int64_t before = std::clamp<int64_t>(-left, 0, strip.count);
  const int64_t within = std::clamp<int64_t>(all - right, 0, strip.count);
  if (before == 0 && within == strip.count) return both(left, right);
  one(left, before, strip.count);
  one(right, 0, within);
  if (s.cyclic) {
    one(left + all, 0, before);
    one(right - all, within, strip.count);
  }
}

template <typename T>
INLINE void filter_strip(const Lines& s, Strip strip, const T* line,
                         const T* weights, int64_t reach, T* results) {
  const T* own = line + strip.start;
  T* result = results + strip.start;
  for (int64_t k = 0; k < strip.count; ++k) result[k] = weights[0] * own[k];
  for (int64_t d = 1; d <= reach; ++d) {
    const T weight = weights[d];
    at_distance(
        s, strip, d,
        [&](int64_t left, int64_t right) INLINED {
          const T *first = line + left, *second = line + right;
#pragma omp simd
          for (int64_t k = 0; k < strip.count; ++k) {
            // Not of their sum, which could be too large.
            result[k] += weight * first[k];
            result[k] += weight * second[k];
          }
        },
        [&](int64_t at, int64_t from, int64_t to) INLINED {
#pragma omp simd
          for (int64_t k = from; k < to; ++k) {
            result[k] += weight * line[at + k];
          }
        });
  }
}

// Adds to `sums`, of the distances from 0 on.
template <typename T>
INLINE void correlate_strip(const Lines& s, Strip strip, const T* line,
                            const T* cotangents, int64_t reach, double* sums) {
  const T* cotangent = cotangents + strip.start;
  for (int64_t d = 0; d <= reach; ++d) {
    T sum = 0;
    const auto add = [&](int64_t at, int64_t from, int64_t to) INLINED {
#pragma omp simd reduction(+ : sum)
      for (int64_t k = from; k < to; ++k) sum += cotangent[k] * line[at + k];
    };
    if (d == 0) {
      add(strip.start, 0, strip.count);
    } else {
      at_distance(
          s, strip, d,
          [&](int64_t left, int64_t right) INLINED {
            const T *first = line + left, *second = line + right;
#pragma omp simd reduction(+ : sum)
            for (int64_t k = 0; k < strip.count; ++k) {
              sum += cotangent[k] * (first[k] + second[k]);
            }
          },
          add);
    }
    sums[d] += sum;
  }
}

// A task of a line.
template <typename T>
INLINE void filter_task(const Lines& s, const Cut& cut, int64_t task,
                        const T* line, const T* weights, int64_t reach,
                        T* results) {
  cut.over_strips(s, task, [&](Strip strip) INLINED {
    filter_strip(s, strip, line, weights, reach, results);
  });
}

template <typename T>
INLINE void correlate_task(const Lines& s, const Cut& cut, int64_t task,
                           const T* line, const T* cotangents, int64_t reach,
                           double* sums) {
  cut.over_strips(s, task, [&](Strip strip) INLINED {
    correlate_strip(s, strip, line, cotangents, reach, sums);
  });
}

// Calls `visit(image, line, task)` for all tasks, on the pool's threads.
template <typename Pool, typename F>
void over_tasks(Pool& pool, const Lines& s, const Cut& cut, const F& visit) {
  const int64_t each = std::max<int64_t>(1, s.numbers() / cut.tasks);
  const int64_t grain = std::max<int64_t>(1, kGrain / each);
  const int64_t all = s.batch * s.lines * cut.tasks;
  in_parallel(pool, all, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t line = i / cut.tasks;
      visit(line / s.lines, line, i % cut.tasks);
    }
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_FILTERS_H_
