// Sampling of a batch and both gradients, for every method, number of axes and
// type of numbers, filters, banded products and remainders; by threads.

#ifndef STNJAX_SAMPLING_KERNELS_SAMPLER_H_
#define STNJAX_SAMPLING_KERNELS_SAMPLER_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bands.h"
#include "coordinates.h"
#include "filters.h"
#include "gradients.h"
#include "parallel.h"
#include "places.h"
#include "read.h"

// One build for all processors of a kind: the loader picks what runs here. With
// AVX2 there is code for more numbers of channels.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(STNJAX_ONE_PROCESSOR)
#define PER_PROCESSOR(define, Pixel)                       \
  define(__attribute__((target("default"))), false, Pixel) \
  define(__attribute__((target("arch=x86-64-v3"))), true, Pixel)
#else
#define PER_PROCESSOR(define, Pixel) define(, true, Pixel)
#endif

namespace stnjax {

// What runs on a processor's own instructions, so no template: functions per
// case. `few`: whether they have code for more numbers of channels.
#define READ_KERNEL(target, few, Pixel, Type, axes, taps)                     \
  target inline void read_on(Case<Type, axes, taps> which, const Sizes& s,    \
                             const Pixel* image, const Pixel* nothing,        \
                             const Source<Type>& source, int64_t count,       \
                             Pixel* values) {                                 \
    read<few>(which, s, image, nothing, source, count, values);               \
  }

#define KERNELS(target, few, Type, axes, taps)                                \
  target inline void place_on(                                                \
      Case<Type, axes, taps>, const Sizes& s, const Points<Type>& points,     \
      int64_t count, bool with_slopes, Places<Type, axes, taps>& places) {    \
    locate(s, points, count, places);                                         \
    weigh(s, count, with_slopes, places);                                     \
  }                                                                           \
  READ_KERNEL(target, few, Type, Type, axes, taps)                            \
  target inline void grad_image_on(                                           \
      Case<Type, axes, taps> which, const Sizes& s, const Type* values,       \
      const Source<Type>& source, int64_t count, Type* image) {               \
    grad_image<few>(which, s, values, source, count, image);                  \
  }

// "nearest" has no gradient with respect to coordinates.
#define KERNELS_WITH_SLOPES(target, few, Type, axes, taps)                    \
  KERNELS(target, few, Type, axes, taps)                                      \
  target inline void grad_coords_on(                                          \
      Case<Type, axes, taps> which, const Sizes& s, const Type* image,        \
      const Type* nothing, const Points<Type>& points, const Type* cotangent, \
      int64_t count, const Points<Type, Type>& gradients) {                   \
    grad_coords<few>(which, s, image, nothing, points, cotangent, count,      \
                     gradients);                                              \
  }                                                                           \
  target inline void grad_matrix_on(                                          \
      Case<Type, axes, taps> which, const Sizes& s, const Type* image,        \
      const Type* nothing, const Source<Type>& source, const Type* cotangent, \
      int64_t count, double* matrix) {                                        \
    grad_matrix<few>(which, s, image, nothing, source, cotangent, count,      \
                     matrix);                                                 \
  }

#define BYTES_KERNELS(target, few, Pixel)      \
  READ_KERNEL(target, few, Pixel, float, 2, 1) \
  READ_KERNEL(target, few, Pixel, float, 3, 1) \
  READ_KERNEL(target, few, Pixel, float, 2, 2) \
  READ_KERNEL(target, few, Pixel, float, 3, 2) \
  READ_KERNEL(target, few, Pixel, float, 2, 4) \
  READ_KERNEL(target, few, Pixel, float, 3, 4) \
  BAND_KERNEL(target, Pixel, float)

// For any number of taps.
#define MAP_KERNEL(target, Type, axes)                                 \
  target inline void map_on(Case<Type, axes, 0>, const Sizes& s,       \
                            const Source<Type>& source, int64_t start, \
                            int64_t count, Type (*places)[kBlock],     \
                            Signs<Type> signs) {                       \
    map_pixels<axes>(s, source, start, count, places, signs);          \
  }

#define FILTER_KERNELS(target, Type)                                          \
  target inline void filter_on(const Lines& s, const Cut& cut, int64_t task,  \
                               const Type* line, const Type* weights,         \
                               int64_t reach, Type* results) {                \
    filter_task(s, cut, task, line, weights, reach, results);                 \
  }                                                                           \
  target inline void correlate_on(                                            \
      const Lines& s, const Cut& cut, int64_t task, const Type* line,         \
      const Type* cotangents, int64_t reach, double* sums) {                  \
    correlate_task(s, cut, task, line, cotangents, reach, sums);              \
  }

#define BAND_KERNEL(target, Number, Type)                                     \
  target inline void combine_on(const Band& s, const Number* numbers,         \
                                const Type* weights, const int32_t* starts,   \
                                int64_t first, int64_t last, int64_t width,   \
                                Type* results) {                              \
    combine_range(s, numbers, weights, starts, first, last, width, results);  \
  }

#define REMAINDER_KERNEL(target, Type)                                        \
  target inline void remainders_on(const Type* numbers, int64_t count,        \
                                   int64_t period, Type* rests) {             \
    remainders(numbers, count, period, rests);                                \
  }

#define ALL_KERNELS(target, few, Type)         \
  FILTER_KERNELS(target, Type)                 \
  REMAINDER_KERNEL(target, Type)               \
  BAND_KERNEL(target, Type, Type)              \
  MAP_KERNEL(target, Type, 2)                  \
  MAP_KERNEL(target, Type, 3)                  \
  KERNELS(target, few, Type, 2, 1)             \
  KERNELS(target, few, Type, 3, 1)             \
  KERNELS_WITH_SLOPES(target, few, Type, 2, 2) \
  KERNELS_WITH_SLOPES(target, few, Type, 3, 2) \
  KERNELS_WITH_SLOPES(target, few, Type, 2, 4) \
  KERNELS_WITH_SLOPES(target, few, Type, 3, 4)

PER_PROCESSOR(ALL_KERNELS, float)
PER_PROCESSOR(ALL_KERNELS, double)
PER_PROCESSOR(BYTES_KERNELS, uint8_t)

// Calls `visit` with the case of the numbers of axes and taps.
template <typename T, typename F>
void by_case(const Sizes& s, const F& visit) {
  const int taps = taps_of(s.weighting);
  if (s.num_axes == 2) {
    if (taps == 1) return visit(Case<T, 2, 1>{});
    if (taps == 2) return visit(Case<T, 2, 2>{});
    return visit(Case<T, 2, 4>{});
  }
  if (taps == 1) return visit(Case<T, 3, 1>{});
  if (taps == 2) return visit(Case<T, 3, 2>{});
  visit(Case<T, 3, 4>{});
}

// Pixels are numbers or bytes.
template <typename Pixel, typename T, typename Pool>
void read_all(Pool& pool, const Sizes& s, const Pixel* image,
              const Source<T>& source, Pixel* values) {
  const std::vector<Pixel> nothing(s.channels);
  over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
    by_case<T>(s, [&](auto which) {
      read_on(which, s, image + i * s.numbers(), nothing.data(),
              source.of(s, i, first), last - first,
              values + first * s.channels);
    });
  });
}

template <typename T, int kAxes>
void grad_coords_on(Case<T, kAxes, 1>, const Sizes&, const T*, const T*,
                    const Points<T>&, const T*, int64_t count,
                    const Points<T, T>& gradients) {
  for (int a = 0; a < kAxes; ++a) std::fill_n(gradients.along[a], count, T(0));
}

template <typename T, typename Pool>
void grad_coords_all(Pool& pool, const Sizes& s, const T* image,
                     const Points<T>& points, const T* cotangent,
                     const Points<T, T>& gradients) {
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
    by_case<T>(s, [&](auto which) {
      grad_coords_on(which, s, image + i * s.numbers(), nothing.data(),
                     points.from(first), cotangent + first * s.channels,
                     last - first, gradients.from(first));
    });
  });
}

// Of "nearest", which never asks for it.
template <typename T, int kAxes>
void grad_matrix_on(Case<T, kAxes, 1>, const Sizes&, const T*, const T*,
                    const Source<T>&, const T*, int64_t, double*) {}

template <typename T, typename Pool>
void grad_matrix_all(Pool& pool, const Sizes& s, const T* image,
                     const Source<T>& source, const T* cotangent,
                     T* matrices) {
  const int64_t numbers = s.num_axes * (s.num_axes + 1);  // of a matrix
  std::fill_n(matrices, s.batch * numbers, T(0));
  if (s.points * s.channels == 0) return;
  const std::vector<T> nothing(s.channels);
  // Each part of an image has a sum of its own; these are added in order: the
  // same every time.
  const int64_t part = std::max<int64_t>(1, kGrain / (kBlock * s.channels)) *
                       kBlock;  // points
  const int64_t parts = (s.points + part - 1) / part;
  const int64_t grain = std::max<int64_t>(1, kGrain / (s.points * s.channels));
  std::vector<double> sums(s.batch * parts * numbers);
  in_parallel(pool, s.batch * parts, grain, [&](int64_t i, int64_t last) {
    for (; i < last; ++i) {
      const int64_t at = i / parts, start = i % parts * part;
      const int64_t first = at * s.points + start;
      by_case<T>(s, [&](auto which) {
        grad_matrix_on(which, s, image + at * s.numbers(), nothing.data(),
                       source.of(s, at, first), cotangent + first * s.channels,
                       std::min(part, s.points - start), &sums[i * numbers]);
      });
    }
  });
  for (int64_t i = 0; i < s.batch * numbers; ++i) {
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p) {
      sum += sums[(i / numbers * parts + p) * numbers + i % numbers];
    }
    matrices[i] = static_cast<T>(sum);
  }
}

template <typename T, typename Pool>
void grad_image_all(Pool& pool, const Sizes& s, const T* values,
                    const Source<T>& source, T* image) {
  // Each image by one thread, in order: the same sums every time.
  over_images(pool, s, [&](int64_t i) {
    T* pixels = image + i * s.numbers();
    std::fill_n(pixels, s.numbers(), T(0));
    by_case<T>(s, [&](auto which) {
      grad_image_on(which, s, values + i * s.points * s.channels,
                    source.of(s, i, i * s.points), s.points, pixels);
    });
  });
}

template <typename T, typename Pool>
void filter_all(Pool& pool, const Lines& s, const T* images, const T* weights,
                const int32_t* reaches, T* results) {
  if (s.numbers() == 0) return;
  const Cut cut(s);
  over_tasks(pool, s, cut, [&](int64_t image, int64_t line, int64_t task) {
    const int64_t start = line * s.numbers();
    filter_on(s, cut, task, images + start, weights + image * s.taps,
              reaches[image], results + start);
  });
}

template <typename T, typename Pool>
void correlate_all(Pool& pool, const Lines& s, const T* images,
                   const T* cotangents, const int32_t* reaches, T* weights) {
  std::fill_n(weights, s.batch * s.taps, T(0));
  if (s.batch * s.lines * s.numbers() == 0) return;
  // Some tasks of an image share their sums, which are added in order: the
  // same every time.
  const Cut cut(s);
  const int64_t tasks = s.lines * cut.tasks;  // of an image
  const int64_t parts = std::min<int64_t>(tasks, 128);
  const int64_t taps = *std::max_element(reaches, reaches + s.batch) + 1;
  std::vector<double> sums(s.batch * parts * taps);
  const int64_t grain =
      std::max<int64_t>(1, kGrain * parts / (s.lines * s.numbers() + 1));
  in_parallel(pool, s.batch * parts, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / parts, part = i % parts;
      const int64_t end = (part + 1) * tasks / parts;
      for (int64_t task = part * tasks / parts; task < end; ++task) {
        const int64_t line = image * s.lines + task / cut.tasks;
        const int64_t start = line * s.numbers();
        correlate_on(s, cut, task % cut.tasks, images + start,
                     cotangents + start, reaches[image], &sums[i * taps]);
      }
    }
  });
  for (int64_t image = 0; image < s.batch; ++image) {
    for (int64_t d = 0; d <= reaches[image]; ++d) {
      double sum = 0;
      for (int64_t part = image * parts; part < (image + 1) * parts; ++part) {
        sum += sums[part * taps + d];
      }
      weights[image * s.taps + d] = static_cast<T>(sum);
    }
  }
}

template <typename T, typename Pool>
void remainders_all(Pool& pool, const T* numbers, int64_t count,
                    int64_t period, T* rests) {
  in_parallel(pool, count, kGrain, [&](int64_t first, int64_t last) {
    // In blocks: one number that is large or NaN slows down its own.
    for (int64_t start = first; start < last; start += kBlock) {
      remainders_on(numbers + start, std::min(kBlock, last - start), period,
                    rests + start);
    }
  });
}

template <typename Number, typename T, typename Pool>
void multiply_all(Pool& pool, const Band& s, const Number* arrays,
                  const T* weights, const int32_t* starts, T* results) {
  over_ranges(pool, s, [&](int64_t line, int64_t first, int64_t last,
                           int64_t column, int64_t width) {
    combine_on(s, arrays + line * s.size * s.inner + column, weights, starts,
                first, last, width,
               results + line * s.count * s.inner + column);
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_SAMPLER_H_
