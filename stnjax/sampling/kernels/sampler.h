// Sampling of a batch and both gradients, for every method, number of axes and
// type of numbers; by threads.

#ifndef STNJAX_SAMPLING_KERNELS_SAMPLER_H_
#define STNJAX_SAMPLING_KERNELS_SAMPLER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "places.h"

// One build for all processors of a kind: the loader picks what runs here. With
// AVX2 there is code for more numbers of channels.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(STNJAX_ONE_PROCESSOR)
#define PER_PROCESSOR(define, ...)                                   \
  define(__attribute__((target("default"))), false, __VA_ARGS__)     \
  define(__attribute__((target("arch=x86-64-v3"))), true, __VA_ARGS__)
#else
#define PER_PROCESSOR(define, ...) define(, true, __VA_ARGS__)
#endif

namespace stnjax {

// What runs on a processor's own instructions, so no template: functions per
// case. `few`: whether they have code for more numbers of channels.
#define KERNELS(target, few, Type, axes, taps)                                \
  target inline void place_on(                                                \
      Case<Type, axes, taps>, const Sizes& s, const Points<Type>& points,     \
      int64_t count, bool with_slopes, Places<Type, axes, taps>& places) {    \
    locate(s, points, count, places);                                         \
    weigh(s, count, with_slopes, places);                                     \
  }                                                                           \
  target inline void read_on(Case<Type, axes, taps> which, const Sizes& s,    \
                             const Type* image, const Type* nothing,          \
                             const Points<Type>& points, int64_t count,       \
                             Type* values) {                                  \
    read<few>(which, s, image, nothing, points, count, values);               \
  }                                                                           \
  target inline void grad_image_on(                                           \
      Case<Type, axes, taps> which, const Sizes& s, const Type* values,       \
      const Points<Type>& points, int64_t count, Type* image) {               \
    grad_image<few>(which, s, values, points, count, image);                  \
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
  }

#define ALL_KERNELS(target, few, Type)           \
  KERNELS(target, few, Type, 2, 1)               \
  KERNELS(target, few, Type, 3, 1)               \
  KERNELS_WITH_SLOPES(target, few, Type, 2, 2)   \
  KERNELS_WITH_SLOPES(target, few, Type, 3, 2)   \
  KERNELS_WITH_SLOPES(target, few, Type, 2, 4)   \
  KERNELS_WITH_SLOPES(target, few, Type, 3, 4)

PER_PROCESSOR(ALL_KERNELS, float)
PER_PROCESSOR(ALL_KERNELS, double)

// What a case does with some points of one image; `nothing` are zeros, one for
// each channel.
template <typename T>
struct Kernel {
  void (*read)(const Sizes& s, const T* image, const T* nothing,
               const Points<T>& points, int64_t count, T* values);
  void (*grad_coords)(const Sizes& s, const T* image, const T* nothing,
                      const Points<T>& points, const T* cotangent,
                      int64_t count, const Points<T, T>& gradients);
  void (*grad_image)(const Sizes& s, const T* values, const Points<T>& points,
                     int64_t count, T* image);
};

template <typename T, int kAxes, int kTaps>
Kernel<T> kernel() {
  using Which = Case<T, kAxes, kTaps>;
  Kernel<T> k;
  k.read = [](const Sizes& s, const T* image, const T* nothing,
              const Points<T>& points, int64_t count, T* values) {
    read_on(Which{}, s, image, nothing, points, count, values);
  };
  k.grad_coords = [](const Sizes& s, const T* image, const T* nothing,
                     const Points<T>& points, const T* cotangent,
                     int64_t count, const Points<T, T>& gradients) {
    if constexpr (kTaps == 1) {
      for (int a = 0; a < kAxes; ++a) {
        std::fill_n(gradients.along[a], count, T(0));
      }
    } else {
      grad_coords_on(Which{}, s, image, nothing, points, cotangent, count,
                     gradients);
    }
  };
  k.grad_image = [](const Sizes& s, const T* values, const Points<T>& points,
                    int64_t count, T* image) {
    grad_image_on(Which{}, s, values, points, count, image);
  };
  return k;
}

template <typename T>
Kernel<T> kernel_for(const Sizes& s) {
  const int taps = taps_of(s.weighting);
  if (s.num_axes == 2) {
    return taps == 1   ? kernel<T, 2, 1>()
           : taps == 2 ? kernel<T, 2, 2>()
                       : kernel<T, 2, 4>();
  }
  return taps == 1   ? kernel<T, 3, 1>()
         : taps == 2 ? kernel<T, 3, 2>()
                     : kernel<T, 3, 4>();
}

// Calls `visit(part, pixels, first)` for parts of a batch of images of bytes,
// from image `first` on, with their pixels as numbers: as many images at once
// as a processor keeps close to it, or one.
template <typename T, typename Pool, typename F>
void over_bytes(Pool& pool, const Sizes& s, const uint8_t* image,
                const F& visit) {
  constexpr int64_t kClose = 1 << 18;
  const int64_t numbers = std::max<int64_t>(1, s.numbers());
  const int64_t most = std::clamp<int64_t>(kClose / numbers, 1,
                                           std::max<int64_t>(1, s.batch));
  const std::unique_ptr<T[]> pixels(new T[most * numbers]);
  Sizes part = s;
  for (int64_t first = 0; first < s.batch; first += most) {
    part.batch = std::min(most, s.batch - first);
    const uint8_t* bytes = image + first * s.numbers();
    in_parallel(pool, part.batch * s.numbers(), kGrain,
                [&](int64_t start, int64_t end) {
                  std::copy(bytes + start, bytes + end, pixels.get() + start);
                });
    visit(part, pixels.get(), first);
  }
}

template <typename T, typename Pool>
void read_all(Pool& pool, const Sizes& s, const T* image,
              const Points<T>& points, T* values) {
  const Kernel<T> kernel = kernel_for<T>(s);
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
    kernel.read(s, image + i * s.numbers(), nothing.data(), points.from(first),
                last - first, values + first * s.channels);
  });
}

template <typename T, typename Pool>
void grad_coords_all(Pool& pool, const Sizes& s, const T* image,
                     const Points<T>& points, const T* cotangent,
                     const Points<T, T>& gradients) {
  const Kernel<T> kernel = kernel_for<T>(s);
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t i, int64_t first, int64_t last) {
    kernel.grad_coords(s, image + i * s.numbers(), nothing.data(),
                       points.from(first), cotangent + first * s.channels,
                       last - first, gradients.from(first));
  });
}

template <typename T, typename Pool>
void grad_image_all(Pool& pool, const Sizes& s, const T* values,
                    const Points<T>& points, T* image) {
  const Kernel<T> kernel = kernel_for<T>(s);
  // Each image by one thread, in order: the same sums every time.
  over_images(pool, s, [&](int64_t i) {
    T* pixels = image + i * s.numbers();
    std::fill_n(pixels, s.numbers(), T(0));
    kernel.grad_image(s, values + i * s.points * s.channels,
                      points.from(i * s.points), s.points, pixels);
  });
}

}  // namespace stnjax

#endif  // STNJAX_SAMPLING_KERNELS_SAMPLER_H_
