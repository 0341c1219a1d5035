// Bilinear sampling of channels-last images on CPU, and both of its gradients,
// for XLA's foreign function interface. See bilinear_operations.py.
//
// Shapes: image [..., H, W, C]; x, y [..., P]; values [..., P, C]; row-major.
// x and y are pixel coordinates, to which the padding is applied. The tap after
// the last pixel of an axis lies at `beyond_x`, `beyond_y`; -1 where there is
// none, as with zeros outside. A NaN coordinate reads 0.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

// One build for all processors of a kind: the loader picks what runs here.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define PER_PROCESSOR \
  __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define PER_PROCESSOR
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

namespace ffi = xla::ffi;

constexpr int64_t kBlock = 64;      // points whose places are worked out at once
constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a task

struct Sizes {
  int64_t batch, height, width, channels, points;
  int64_t beyond_x, beyond_y;

  int64_t pixels() const { return height * width * channels; }
};

// Where the taps of a block of points lie, and their weights.
enum State : int32_t { kNowhere, kOnEdge, kInside };

template <typename T>
struct Places {
  int32_t x[kBlock], y[kBlock];  // of the upper left tap
  int32_t first[kBlock];         // that tap, counted along rows
  T right[kBlock], down[kBlock];
  int32_t state[kBlock];  // whether all four taps, or some, are pixels
};

template <typename T>
INLINE void locate(const Sizes& s, const T* __restrict x, const T* __restrict y,
                   int64_t count, Places<T>& __restrict p) {
  const int32_t low_x = s.beyond_x < 0 ? -1 : 0;
  const int32_t low_y = s.beyond_y < 0 ? -1 : 0;
  const int32_t columns = static_cast<int32_t>(s.width);
  const int32_t rows = static_cast<int32_t>(s.height);
  const T width = static_cast<T>(s.width), height = static_cast<T>(s.height);
  for (int64_t i = 0; i < count; ++i) {
    // Moved next to the image where further away, or NaN.
    T px = x[i] < width ? x[i] : width, py = y[i] < height ? y[i] : height;
    px = px >= low_x ? px : T(low_x - 1);
    py = py >= low_y ? py : T(low_y - 1);
    const T left = std::floor(px), top = std::floor(py);
    const int32_t ix = static_cast<int32_t>(left);
    const int32_t iy = static_cast<int32_t>(top);
    p.x[i] = ix;
    p.y[i] = iy;
    p.first[i] = iy * columns + ix;
    p.right[i] = px - left;
    p.down[i] = py - top;
    const int32_t some = std::min(std::min(ix - low_x, columns - 1 - ix),
                                  std::min(iy - low_y, rows - 1 - iy));
    const int32_t all = std::min(std::min(ix, columns - 2 - ix),
                                 std::min(iy, rows - 2 - iy));
    p.state[i] = (some >= 0 ? kOnEdge : kNowhere) + (all >= 0 ? 1 : 0);
  }
}

// Asks for the pixels of a block, which lie across the image, ahead of time.
template <typename T>
INLINE void prefetch(const Sizes& s, const Places<T>& p, int64_t count,
                     int64_t channels, const T* image) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < count; i += 4) {
    const T* pixel = image + p.first[i] * channels;
    __builtin_prefetch(pixel);
    __builtin_prefetch(pixel + s.width * channels);
  }
#endif
}

// Visits the points of a block: `inside(i)` in a loop of its own over each run
// of points whose taps are all pixels, so that it has no branches.
template <typename T, typename Inside, typename OnEdge, typename Nowhere>
INLINE void by_state(const Places<T>& p, int64_t count, const Inside& inside,
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

// The four taps, from the upper left along rows, as offsets in an image.
struct Taps {
  int64_t at[4];
};

template <typename T>
INLINE Taps taps_inside(const Sizes& s, const Places<T>& p, int64_t i,
                        int64_t channels) {
  const int64_t first = p.first[i] * channels, row = s.width * channels;
  return {{first, first + channels, first + row, first + row + channels}};
}

// -1 for a tap that is no pixel.
template <typename T>
INLINE Taps taps_on_edge(const Sizes& s, const Places<T>& p, int64_t i,
                         int64_t channels) {
  const int64_t x = p.x[i], y = p.y[i];
  const int64_t right = x + 1 < s.width ? x + 1 : s.beyond_x;
  const int64_t down = y + 1 < s.height ? y + 1 : s.beyond_y;
  const auto at = [&](int64_t column, int64_t row) {
    const bool pixel = column >= 0 && row >= 0;
    return pixel ? (row * s.width + column) * channels : -1;
  };
  return {{at(x, y), at(right, y), at(x, down), at(right, down)}};
}

template <typename T>
struct Pixels {
  const T* at[4];
};

template <typename T>
INLINE Pixels<T> pixels_at(const Taps& taps, const T* image, const T* nothing) {
  Pixels<T> v;
  for (int k = 0; k < 4; ++k) {
    v.at[k] = taps.at[k] < 0 ? nothing : image + taps.at[k];
  }
  return v;
}

template <typename T>
INLINE Pixels<T> pixels_inside(const Taps& taps, const T* image) {
  Pixels<T> v;
  for (int k = 0; k < 4; ++k) v.at[k] = image + taps.at[k];
  return v;
}

template <typename T>
struct Weights {
  T of[4];
};

template <typename T>
INLINE Weights<T> weights(const Places<T>& p, int64_t i) {
  const T right = p.right[i], down = p.down[i];
  const T left = 1 - right, up = 1 - down;
  return {{left * up, right * up, left * down, right * down}};
}

// kChannels is the number of channels where it is known, else 0.
template <typename T, int kChannels>
INLINE void read(const Sizes& s, const T* image, const T* nothing, const T* x,
                 const T* y, int64_t count, T* __restrict values) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  Places<T> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    locate(s, x + start, y + start, size, p);
    prefetch(s, p, size, channels, image);
    T* block = values + start * channels;
    const auto blend = [&](int64_t i, const Pixels<T>& v) {
      const Weights<T> w = weights(p, i);
      T* value = block + i * channels;
      for (int64_t c = 0; c < channels; ++c) {
        value[c] = w.of[0] * v.at[0][c] + w.of[1] * v.at[1][c] +
                   w.of[2] * v.at[2][c] + w.of[3] * v.at[3][c];
      }
    };
    by_state(
        p, size,
        [&](int64_t i) {
          blend(i, pixels_inside(taps_inside(s, p, i, channels), image));
        },
        [&](int64_t i) {
          blend(i, pixels_at(taps_on_edge(s, p, i, channels), image, nothing));
        },
        [&](int64_t i) { std::fill_n(block + i * channels, channels, T(0)); });
  }
}

// Slopes along x and y of sum(values * cotangent).
template <typename T, int kChannels>
INLINE void grad_coords(const Sizes& s, const T* image, const T* nothing,
                        const T* x, const T* y, const T* cotangent,
                        int64_t count, T* __restrict to_x,
                        T* __restrict to_y) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  Places<T> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    locate(s, x + start, y + start, size, p);
    prefetch(s, p, size, channels, image);
    const auto slopes = [&](int64_t i, const Pixels<T>& v) {
      const T* one = cotangent + (start + i) * channels;
      T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
      for (int64_t k = 0; k < channels; ++k) {
        a += v.at[0][k] * one[k];
        b += v.at[1][k] * one[k];
        c += v.at[2][k] * one[k];
        d += v.at[3][k] * one[k];
      }
      const T right = p.right[i], down = p.down[i];
      to_x[start + i] = (1 - down) * (b - a) + down * (d - c);
      to_y[start + i] = (1 - right) * (c - a) + right * (d - b);
    };
    by_state(
        p, size,
        [&](int64_t i) {
          slopes(i, pixels_inside(taps_inside(s, p, i, channels), image));
        },
        [&](int64_t i) {
          slopes(i, pixels_at(taps_on_edge(s, p, i, channels), image, nothing));
        },
        [&](int64_t i) { to_x[start + i] = to_y[start + i] = 0; });
  }
}

// Adds values to the pixels that they were read from.
template <typename T, int kChannels>
INLINE void grad_image(const Sizes& s, const T* values, const T* x,
                       const T* y, int64_t count, T* __restrict image) {
  const int64_t channels = kChannels ? kChannels : s.channels;
  Places<T> p;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    locate(s, x + start, y + start, size, p);
    prefetch(s, p, size, channels, image);
    const auto add = [&](int64_t i, int64_t at, T weight) {
      const T* value = values + (start + i) * channels;
      for (int64_t c = 0; c < channels; ++c) image[at + c] += weight * value[c];
    };
    by_state(
        p, size,
        [&](int64_t i) {
          const Taps t = taps_inside(s, p, i, channels);
          const Weights<T> w = weights(p, i);
          for (int k = 0; k < 4; ++k) add(i, t.at[k], w.of[k]);
        },
        [&](int64_t i) {
          const Taps t = taps_on_edge(s, p, i, channels);
          const Weights<T> w = weights(p, i);
          for (int k = 0; k < 4; ++k) {
            if (t.at[k] >= 0) add(i, t.at[k], w.of[k]);
          }
        },
        [](int64_t) {});
  }
}

// Calls `visit(first, last)` on ranges that cover [0, count), on the pool's
// threads and this one, which never waits for a task that has not begun.
template <typename F>
void in_parallel(ffi::ThreadPool& pool, int64_t count, int64_t grain,
                 const F& visit) {
  const int64_t chunks = (count + grain - 1) / grain;
  const int64_t helpers = std::min(pool.num_threads(), chunks) - 1;
  if (helpers <= 0) {
    if (count > 0) visit(0, count);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  const auto shared = std::make_shared<Shared>();
  // Those that come when nothing is left must not touch `visit` any more.
  const auto work = [shared, chunks, grain, count, &visit] {
    int64_t chunk;
    while ((chunk = shared->next.fetch_add(1)) < chunks) {
      visit(chunk * grain, std::min(count, (chunk + 1) * grain));
      if (shared->done.fetch_add(1) + 1 == chunks) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->finished.notify_one();
      }
    }
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done.load() == chunks; });
}

// Calls `visit(image, first, last)` on ranges of points of one image each.
template <typename F>
void over_points(ffi::ThreadPool& pool, const Sizes& s, const F& visit) {
  const int64_t grain = std::max<int64_t>(kBlock, kGrain / std::max<int64_t>(1, s.channels));
  in_parallel(pool, s.batch * s.points, grain, [&](int64_t at, int64_t last) {
    while (at < last) {
      const int64_t image = at / s.points;
      const int64_t until = std::min(last, (image + 1) * s.points);
      visit(image, at, until);
      at = until;
    }
  });
}

// What runs on a processor's own instructions, so no template: a function per
// type of numbers, which takes the number of channels apart.
#define BY_CHANNELS(function, ...)                     \
  switch (s.channels) {                                \
    case 1:                                            \
      return function<T, 1>(__VA_ARGS__);              \
    case 3:                                            \
      return function<T, 3>(__VA_ARGS__);              \
    case 4:                                            \
      return function<T, 4>(__VA_ARGS__);              \
    default:                                           \
      return function<T, 0>(__VA_ARGS__);              \
  }

#define KERNELS(Type)                                                        \
  PER_PROCESSOR void read_on(const Sizes& s, const Type* image,              \
                             const Type* nothing, const Type* x,             \
                             const Type* y, int64_t count, Type* values) {   \
    using T = Type;                                                          \
    BY_CHANNELS(read, s, image, nothing, x, y, count, values)                \
  }                                                                          \
  PER_PROCESSOR void grad_coords_on(const Sizes& s, const Type* image,       \
                                    const Type* nothing, const Type* x,      \
                                    const Type* y, const Type* cotangent,    \
                                    int64_t count, Type* to_x, Type* to_y) { \
    using T = Type;                                                          \
    BY_CHANNELS(grad_coords, s, image, nothing, x, y, cotangent, count, to_x,\
                to_y)                                                        \
  }                                                                          \
  PER_PROCESSOR void grad_image_on(const Sizes& s, const Type* values,       \
                                   const Type* x, const Type* y,             \
                                   int64_t count, Type* image) {             \
    using T = Type;                                                          \
    BY_CHANNELS(grad_image, s, values, x, y, count, image)                   \
  }

KERNELS(float)
KERNELS(double)

Sizes sizes_of(const ffi::AnyBuffer& image, const ffi::AnyBuffer& x,
               int64_t beyond_x, int64_t beyond_y) {
  const auto shape = image.dimensions();
  const size_t rank = shape.size();
  int64_t batch = 1;
  for (size_t axis = 0; axis + 3 < rank; ++axis) batch *= shape[axis];
  return {batch,           shape[rank - 3],       shape[rank - 2],
          shape[rank - 1], x.dimensions().back(), beyond_x,
          beyond_y};
}

template <typename T>
void read_all(ffi::ThreadPool& pool, const Sizes& s, const ffi::AnyBuffer& image,
              const ffi::AnyBuffer& x, const ffi::AnyBuffer& y,
              ffi::AnyBuffer& values) {
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t which, int64_t first, int64_t last) {
    read_on(s, image.typed_data<T>() + which * s.pixels(), nothing.data(),
            x.typed_data<T>() + first, y.typed_data<T>() + first, last - first,
            values.typed_data<T>() + first * s.channels);
  });
}

template <typename T>
void grad_coords_all(ffi::ThreadPool& pool, const Sizes& s,
                     const ffi::AnyBuffer& image, const ffi::AnyBuffer& x,
                     const ffi::AnyBuffer& y, const ffi::AnyBuffer& cotangent,
                     ffi::AnyBuffer& to_x, ffi::AnyBuffer& to_y) {
  const std::vector<T> nothing(s.channels);
  over_points(pool, s, [&](int64_t which, int64_t first, int64_t last) {
    grad_coords_on(s, image.typed_data<T>() + which * s.pixels(),
                   nothing.data(), x.typed_data<T>() + first,
                   y.typed_data<T>() + first,
                   cotangent.typed_data<T>() + first * s.channels,
                   last - first, to_x.typed_data<T>() + first,
                   to_y.typed_data<T>() + first);
  });
}

template <typename T>
void grad_image_all(ffi::ThreadPool& pool, const Sizes& s,
                    const ffi::AnyBuffer& values, const ffi::AnyBuffer& x,
                    const ffi::AnyBuffer& y, ffi::AnyBuffer& image) {
  // Each image by one thread, in order: the same sums every time.
  const int64_t each = std::max<int64_t>(1, s.points * s.channels);
  const int64_t grain = std::max<int64_t>(1, kGrain / each);
  in_parallel(pool, s.batch, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      T* pixels = image.typed_data<T>() + i * s.pixels();
      std::fill_n(pixels, s.pixels(), T(0));
      grad_image_on(s, values.typed_data<T>() + i * s.points * s.channels,
                    x.typed_data<T>() + i * s.points,
                    y.typed_data<T>() + i * s.points, s.points, pixels);
    }
  });
}

#define BY_TYPE(function, ...)                                     \
  switch (x.element_type()) {                                      \
    case ffi::DataType::F32:                                       \
      function<float>(__VA_ARGS__);                                \
      return ffi::Error::Success();                                \
    case ffi::DataType::F64:                                       \
      function<double>(__VA_ARGS__);                               \
      return ffi::Error::Success();                                \
    default:                                                       \
      return ffi::Error::InvalidArgument("not float32 or float64"); \
  }

ffi::Error read_call(ffi::ThreadPool pool, ffi::AnyBuffer image,
                     ffi::AnyBuffer x, ffi::AnyBuffer y,
                     ffi::Result<ffi::AnyBuffer> values, int64_t beyond_x,
                     int64_t beyond_y) {
  const Sizes s = sizes_of(image, x, beyond_x, beyond_y);
  BY_TYPE(read_all, pool, s, image, x, y, *values)
}

ffi::Error grad_coords_call(ffi::ThreadPool pool, ffi::AnyBuffer image,
                            ffi::AnyBuffer x, ffi::AnyBuffer y,
                            ffi::AnyBuffer cotangent,
                            ffi::Result<ffi::AnyBuffer> to_x,
                            ffi::Result<ffi::AnyBuffer> to_y, int64_t beyond_x,
                            int64_t beyond_y) {
  const Sizes s = sizes_of(image, x, beyond_x, beyond_y);
  BY_TYPE(grad_coords_all, pool, s, image, x, y, cotangent, *to_x, *to_y)
}

ffi::Error grad_image_call(ffi::ThreadPool pool, ffi::AnyBuffer values,
                           ffi::AnyBuffer x, ffi::AnyBuffer y,
                           ffi::Result<ffi::AnyBuffer> image, int64_t beyond_x,
                           int64_t beyond_y) {
  const Sizes s = sizes_of(*image, x, beyond_x, beyond_y);
  BY_TYPE(grad_image_all, pool, s, values, x, y, *image)
}

}  // namespace

// The version of the interface that this was built for.
extern "C" {
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
extern const int32_t stnjax_bilinear_api[2] = {XLA_FFI_API_MAJOR,
                                               XLA_FFI_API_MINOR};
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_bilinear_read, read_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("beyond_x")
                                  .Attr<int64_t>("beyond_y"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_bilinear_grad_coords, grad_coords_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("beyond_x")
                                  .Attr<int64_t>("beyond_y"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_bilinear_grad_image, grad_image_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("beyond_x")
                                  .Attr<int64_t>("beyond_y"));
