// Sampling of a batch and both gradients, for every method, number of axes and
// type of numbers; by threads.

#ifndef STNJAX_SAMPLING_KERNELS_SAMPLER_H_
#define STNJAX_SAMPLING_KERNELS_SAMPLER_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "places.h"

// One build for all processors of a kind: the loader picks what runs here.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(STNJAX_ONE_PROCESSOR)
#define PER_PROCESSOR \
  __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define PER_PROCESSOR
#endif

namespace stnjax {

// What runs on a processor's own instructions, so no template: functions per
// case, which take the number of channels apart.
#define BY_CHANNELS(function, axes, taps, ...)                               \
  if constexpr (sizeof(T) == 4 || taps < 4) {                                \
    if (s.channels == 1) return function<1, axes, taps>(__VA_ARGS__);        \
  }                                                                          \
  if constexpr (taps > 1 && (sizeof(T) == 4 || (axes == 2 && taps < 4))) {   \
    if constexpr (axes == 2) {                                               \
      if constexpr (taps == 2) {                                             \
        if (s.channels == 2) return function<2, axes, taps>(__VA_ARGS__);    \
      }                                                                      \
      if (s.channels == 3) return function<3, axes, taps>(__VA_ARGS__);      \
    }                                                                        \
    if (s.channels == 4) return function<4, axes, taps>(__VA_ARGS__);        \
  }                                                                          \
  return function<0, axes, taps>(__VA_ARGS__);

#define KERNELS(Type, axes, taps)                                             \
  PER_PROCESSOR inline void place_on(                                         \
      Case<Type, axes, taps>, const Sizes& s, const Points<Type>& points,     \
      int64_t count, bool with_slopes, Places<Type, axes, taps>& places) {    \
    locate(s, points, count, places);                                         \
    weigh(s, count, with_slopes, places);                                     \
  }                                                                           \
  PER_PROCESSOR inline void read_on(Case<Type, axes, taps>, const Sizes& s,   \
                                    const Type* image, const Type* nothing,   \
                                    const Points<Type>& points,               \
                                    int64_t count, Type* values) {            \
    using T = Type;                                                           \
    BY_CHANNELS(read, axes, taps, s, image, nothing, points, count, values)   \
  }                                                                           \
  PER_PROCESSOR inline void grad_image_on(                                    \
      Case<Type, axes, taps>, const Sizes& s, const Type* values,             \
      const Points<Type>& points, int64_t count, Type* image) {               \
    using T = Type;                                                           \
    BY_CHANNELS(grad_image, axes, taps, s, values, points, count, image)      \
  }

// "nearest" has no gradient with respect to coordinates.
#define KERNELS_WITH_SLOPES(Type, axes, taps)                                 \
  KERNELS(Type, axes, taps)                                                   \
  PER_PROCESSOR inline void grad_coords_on(                                   \
      Case<Type, axes, taps>, const Sizes& s, const Type* image,              \
      const Type* nothing, const Points<Type>& points, const Type* cotangent, \
      int64_t count, const Points<Type, Type>& gradients) {                   \
    using T = Type;                                                           \
    BY_CHANNELS(grad_coords, axes, taps, s, image, nothing, points,           \
                cotangent, count, gradients)                                  \
  }

#define ALL_KERNELS(Type)            \
  KERNELS(Type, 2, 1)                \
  KERNELS(Type, 3, 1)                \
  KERNELS_WITH_SLOPES(Type, 2, 2)    \
  KERNELS_WITH_SLOPES(Type, 3, 2)    \
  KERNELS_WITH_SLOPES(Type, 2, 4)    \
  KERNELS_WITH_SLOPES(Type, 3, 4)

ALL_KERNELS(float)
ALL_KERNELS(double)

template <typename T, int kAxes, int kTaps, typename Pool>
void read_all(Case<T, kAxes, kTaps> which, Pool& pool, const Sizes& s,
              const T* image, const Points<T>& points, T* values) {
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
    read_on(which, s, image + i * s.numbers<kAxes>(), nothing.data(),
            points.from(first), last - first, values + first * s.channels);
  });
}

template <typename T, int kAxes, int kTaps, typename Pool>
void grad_coords_all(Case<T, kAxes, kTaps> which, Pool& pool, const Sizes& s,
                     const T* image, const Points<T>& points,
                     const T* cotangent, const Points<T, T>& gradients) {
  if constexpr (kTaps == 1) {
    for (int a = 0; a < kAxes; ++a) {
      std::fill_n(gradients.along[a], s.batch * s.points, T(0));
    }
  } else {
    const std::vector<T> nothing(s.channels);
    over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
      grad_coords_on(which, s, image + i * s.numbers<kAxes>(), nothing.data(),
                     points.from(first), cotangent + first * s.channels,
                     last - first, gradients.from(first));
    });
  }
}

template <typename T, int kAxes, int kTaps, typename Pool>
void grad_image_all(Case<T, kAxes, kTaps> which, Pool& pool, const Sizes& s,
                    const T* values, const Points<T>& points, T* image) {
  const int64_t numbers = s.numbers<kAxes>();
  // Each image by one thread, in order: the same sums every time.
  over_images(pool, s, [&](int64_t i) {
    T* pixels = image + i * numbers;
    std::fill_n(pixels, numbers, T(0));
    grad_image_on(which, s, values + i * s.points * s.channels,
                  points.from(i * s.points), s.points, pixels);
  });
}

// Calls `visit(Case<T, axes, taps>{})`.
template <typename T, typename F>
void by_case(int num_axes, const Sizes& s, const F& visit) {
  const int taps = taps_of(s.weighting);
  if (num_axes == 2) {
    if (taps == 1) return visit(Case<T, 2, 1>{});
    if (taps == 2) return visit(Case<T, 2, 2>{});
    return visit(Case<T, 2, 4>{});
  }
  if (taps == 1) return visit(Case<T, 3, 1>{});
  if (taps == 2) return visit(Case<T, 3, 2>{});
  return visit(Case<T, 3, 4>{});
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_SAMPLER_H_
