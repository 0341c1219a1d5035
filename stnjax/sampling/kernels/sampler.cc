// The compiled sampler, for XLA's foreign function interface: see operations.py.
//
// Shapes: image [..., (D,) H, W, C]; x, y(, z) [..., P]; values [..., P, C];
// row-major. Coordinates are in pixels, `padded` in plain.py. Instead of them
// a matrix [..., N, N + 1], of which they are `places` in affine_maps.py; then
// values are [..., (D,) H, W, C]. Attributes: `weighting`, see places.h;
// `beyond`, `period`: those of an axis, for x, y(, z). Filters: see filters.h;
// banded products: see bands.h; remainders: see coordinates.h.

#include <cstdint>
#include <type_traits>

#include "sampler.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using stnjax::Band;
using stnjax::Lines;
using stnjax::Points;
using stnjax::Sizes;
using stnjax::Source;
using Numbers = ffi::Span<const int64_t>;
// All operations have one signature, so that it is compiled once.
using Operands = ffi::RemainingArgs;
using Results = ffi::RemainingRets;

ffi::AnyBuffer operand(const Operands& operands, size_t index) {
  return *operands.get<ffi::AnyBuffer>(index);
}

ffi::AnyBuffer result(const Results& results, size_t index) {
  return **results.get<ffi::AnyBuffer>(index);
}

// `values`, or their cotangent, are those of the sampled points.
Sizes sizes_of(const ffi::AnyBuffer& image, const ffi::AnyBuffer& values,
               int64_t weighting, Numbers beyond, Numbers period) {
  const auto shape = image.dimensions(), result = values.dimensions();
  const int axes = static_cast<int>(beyond.size());
  const int64_t batch_axes = static_cast<int64_t>(shape.size()) - axes - 1;
  Sizes s = {1, shape.back(), 1, weighting, axes, {}};
  for (int64_t i = 0; i < batch_axes; ++i) s.batch *= shape[i];
  for (size_t i = batch_axes; i + 1 < result.size(); ++i) s.points *= result[i];
  for (int64_t a = 0; a < axes; ++a) {
    s.axes[a] = {shape[batch_axes + axes - 1 - a], beyond[a], period[a]};
  }
  return s;
}

// The coordinates among operands, from `first` on.
template <typename T>
Points<T> points_of(const Operands& operands, size_t first, const Sizes& s) {
  Points<T> points = {};
  for (int a = 0; a < s.num_axes; ++a) {
    points.along[a] = operand(operands, first + a).typed_data<T>();
  }
  return points;
}

// The points among operands, from `first` on: of all pixels of `values`, if a
// matrix is the only one there.
template <typename T>
Source<T> source_of(const Operands& operands, size_t first,
                    const ffi::AnyBuffer& values, const Sizes& s) {
  if (operands.size() > first + 1) return {points_of<T>(operands, first, s)};
  Source<T> source = {{}, operand(operands, first).typed_data<T>()};
  const auto shape = values.dimensions();
  for (int a = 0; a < s.num_axes; ++a) {
    source.shape[a] = shape[shape.size() - 2 - a];
  }
  return source;
}

// Calls `visit` with a zero of a type.
template <typename F>
ffi::Error by_type(ffi::DataType type, const F& visit) {
  if (type == ffi::DataType::F32) {
    visit(float());
  } else if (type == ffi::DataType::F64) {
    visit(double());
  } else {
    return ffi::Error::InvalidArgument("not float32 or float64");
  }
  return ffi::Error::Success();
}

// The same with the type of the coordinates.
template <typename F>
ffi::Error by_type(const Operands& operands, Numbers beyond, const F& visit) {
  if (beyond.size() != 2 && beyond.size() != 3) {
    return ffi::Error::InvalidArgument("not two or three axes");
  }
  return by_type(operand(operands, operands.size() - 1).element_type(), visit);
}

// image, coordinates or a matrix -> values, which are bytes if pixels are
ffi::Error read_call(ffi::ThreadPool pool, Operands operands, Results results,
                     int64_t weighting, Numbers beyond, Numbers period) {
  return by_type(operands, beyond, [&](auto zero) {
    using T = decltype(zero);
    const auto image = operand(operands, 0), values = result(results, 0);
    const Sizes s = sizes_of(image, values, weighting, beyond, period);
    const Source<T> source = source_of<T>(operands, 1, values, s);
    if constexpr (std::is_same_v<T, float>) {
      if (image.element_type() == ffi::DataType::U8) {
        stnjax::read_all(pool, s, image.typed_data<uint8_t>(), source,
                         values.typed_data<uint8_t>());
        return;
      }
    }
    stnjax::read_all(pool, s, image.typed_data<T>(), source,
                     values.typed_data<T>());
  });
}

// image, cotangent, coordinates -> gradients of the coordinates
ffi::Error grad_coords_call(ffi::ThreadPool pool, Operands operands,
                            Results results, int64_t weighting, Numbers beyond,
                            Numbers period) {
  return by_type(operands, beyond, [&](auto zero) {
    using T = decltype(zero);
    const auto image = operand(operands, 0), cotangent = operand(operands, 1);
    const Sizes s = sizes_of(image, cotangent, weighting, beyond, period);
    Points<T, T> gradients = {};
    for (int a = 0; a < s.num_axes; ++a) {
      gradients.along[a] = result(results, a).typed_data<T>();
    }
    stnjax::grad_coords_all(pool, s, image.typed_data<T>(),
                            points_of<T>(operands, 2, s),
                            cotangent.typed_data<T>(), gradients);
  });
}

// values, coordinates or a matrix -> gradient of the image
ffi::Error grad_image_call(ffi::ThreadPool pool, Operands operands,
                           Results results, int64_t weighting, Numbers beyond,
                           Numbers period) {
  return by_type(operands, beyond, [&](auto zero) {
    using T = decltype(zero);
    const auto values = operand(operands, 0), image = result(results, 0);
    const Sizes s = sizes_of(image, values, weighting, beyond, period);
    stnjax::grad_image_all(pool, s, values.typed_data<T>(),
                           source_of<T>(operands, 1, values, s),
                           image.typed_data<T>());
  });
}

// image, cotangent, matrix -> gradient of the matrix
ffi::Error grad_affine_call(ffi::ThreadPool pool, Operands operands,
                            Results results, int64_t weighting, Numbers beyond,
                            Numbers period) {
  return by_type(operands, beyond, [&](auto zero) {
    using T = decltype(zero);
    const auto image = operand(operands, 0), cotangent = operand(operands, 1);
    const Sizes s = sizes_of(image, cotangent, weighting, beyond, period);
    stnjax::grad_matrix_all(pool, s, image.typed_data<T>(),
                            source_of<T>(operands, 2, cotangent, s),
                            cotangent.typed_data<T>(),
                            result(results, 0).typed_data<T>());
  });
}

// `reaches` has the axes of the batch.
Lines lines_of(const ffi::AnyBuffer& images, const ffi::AnyBuffer& weights,
               const ffi::AnyBuffer& reaches, int64_t axis, bool cyclic) {
  const auto shape = images.dimensions();
  Lines s = {1, 1, shape[axis], 1, weights.dimensions().back(), cyclic};
  for (int64_t i = 0; i < static_cast<int64_t>(shape.size()); ++i) {
    if (i < static_cast<int64_t>(reaches.dimensions().size())) {
      s.batch *= shape[i];
    } else if (i < axis) {
      s.lines *= shape[i];
    } else if (i > axis) {
      s.inner *= shape[i];
    }
  }
  return s;
}

// images, weights, reaches -> filtered images
ffi::Error filter_call(ffi::ThreadPool pool, Operands operands, Results results,
                       int64_t axis, bool cyclic) {
  const auto images = operand(operands, 0), weights = operand(operands, 1);
  const auto reaches = operand(operands, 2), filtered = result(results, 0);
  return by_type(images.element_type(), [&](auto zero) {
    using T = decltype(zero);
    const Lines s = lines_of(images, weights, reaches, axis, cyclic);
    stnjax::filter_all(pool, s, images.typed_data<T>(),
                       weights.typed_data<T>(), reaches.typed_data<int32_t>(),
                       filtered.typed_data<T>());
  });
}

// images, cotangent, reaches -> gradient of the weights
ffi::Error correlate_call(ffi::ThreadPool pool, Operands operands,
                          Results results, int64_t axis, bool cyclic) {
  const auto images = operand(operands, 0), cotangent = operand(operands, 1);
  const auto reaches = operand(operands, 2), weights = result(results, 0);
  return by_type(images.element_type(), [&](auto zero) {
    using T = decltype(zero);
    const Lines s = lines_of(images, weights, reaches, axis, cyclic);
    stnjax::correlate_all(pool, s, images.typed_data<T>(),
                          cotangent.typed_data<T>(),
                          reaches.typed_data<int32_t>(),
                          weights.typed_data<T>());
  });
}

// arrays of numbers or bytes, weights, starts -> products along an axis
ffi::Error band_call(ffi::ThreadPool pool, Operands operands, Results results,
                     int64_t axis) {
  const auto arrays = operand(operands, 0), weights = operand(operands, 1);
  const auto starts = operand(operands, 2), products = result(results, 0);
  return by_type(weights.element_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto shape = arrays.dimensions();
    const auto band = weights.dimensions();
    Band s = {1, shape[axis], band[0], 1, band[1]};
    for (int64_t i = 0; i < axis; ++i) s.lines *= shape[i];
    for (size_t i = axis + 1; i < shape.size(); ++i) s.inner *= shape[i];
    const auto multiply = [&](const auto* numbers) {
      stnjax::multiply_all(pool, s, numbers, weights.typed_data<T>(),
                           starts.typed_data<int32_t>(),
                           products.typed_data<T>());
    };
    if constexpr (std::is_same_v<T, float>) {
      if (arrays.element_type() == ffi::DataType::U8) {
        return multiply(arrays.typed_data<uint8_t>());
      }
    }
    multiply(arrays.typed_data<T>());
  });
}

// numbers -> remainders of their division by `period`
ffi::Error remainder_call(ffi::ThreadPool pool, Operands operands,
                          Results results, int64_t period) {
  const auto numbers = operand(operands, 0), rests = result(results, 0);
  return by_type(numbers.element_type(), [&](auto zero) {
    using T = decltype(zero);
    stnjax::remainders_all(pool, numbers.typed_data<T>(),
                           static_cast<int64_t>(numbers.element_count()),
                           period, rests.typed_data<T>());
  });
}

}  // namespace

// The version of the interface that this was built for.
extern "C" {
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
extern const int32_t stnjax_sampler_api[2] = {XLA_FFI_API_MAJOR,
                                              XLA_FFI_API_MINOR};
}

#define DEFINE(name, call, ...)                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, call,                         \
                                ffi::Ffi::Bind()                    \
                                    .Ctx<ffi::ThreadPool>()         \
                                    .RemainingArgs()                \
                                    .RemainingRets() __VA_ARGS__)

#define DEFINE_SAMPLER(name, call)                   \
  DEFINE(name, call,                                 \
             .Attr<int64_t>("weighting")             \
             .Attr<Numbers>("beyond")                \
             .Attr<Numbers>("period"))

DEFINE_SAMPLER(stnjax_sampler_read, read_call);
DEFINE_SAMPLER(stnjax_sampler_read_affine, read_call);
DEFINE_SAMPLER(stnjax_sampler_grad_coords, grad_coords_call);
DEFINE_SAMPLER(stnjax_sampler_grad_image, grad_image_call);
DEFINE_SAMPLER(stnjax_sampler_grad_affine, grad_affine_call);
DEFINE_SAMPLER(stnjax_sampler_grad_image_affine, grad_image_call);
DEFINE(stnjax_sampler_filter, filter_call,
           .Attr<int64_t>("axis")
           .Attr<bool>("cyclic"));
DEFINE(stnjax_sampler_correlate, correlate_call,
           .Attr<int64_t>("axis")
           .Attr<bool>("cyclic"));
DEFINE(stnjax_sampler_band, band_call, .Attr<int64_t>("axis"));
DEFINE(stnjax_sampler_remainder, remainder_call, .Attr<int64_t>("period"));
