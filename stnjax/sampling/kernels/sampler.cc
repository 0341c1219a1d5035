// The compiled sampler, for XLA's foreign function interface: see operations.py.
//
// Shapes: image [..., (D,) H, W, C]; x, y(, z) [..., P]; values [..., P, C];
// row-major. Coordinates are in pixels; see positions in compiled.py for what
// was done to them. Attributes: `weighting`, see places.h; `beyond`, `period`:
// those of an axis, for x, y(, z).

#include <cstdint>

#include "sampler.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using stnjax::Points;
using stnjax::Sizes;
using Numbers = ffi::Span<const int64_t>;

Sizes sizes_of(const ffi::AnyBuffer& image, int64_t points, int64_t weighting,
               Numbers beyond, Numbers period) {
  const auto shape = image.dimensions();
  const int64_t axes = static_cast<int64_t>(beyond.size());
  const int64_t batch_axes = static_cast<int64_t>(shape.size()) - axes - 1;
  Sizes s = {1, shape.back(), points, weighting, {}};
  for (int64_t i = 0; i < batch_axes; ++i) s.batch *= shape[i];
  for (int64_t a = 0; a < axes; ++a) {
    s.axes[a] = {shape[batch_axes + axes - 1 - a], beyond[a], period[a]};
  }
  return s;
}

template <typename T>
Points<T> points_of(const ffi::RemainingArgs& arguments, size_t axes) {
  Points<T> points = {};
  for (size_t a = 0; a < axes; ++a) {
    points.along[a] = arguments.get<ffi::AnyBuffer>(a)->typed_data<T>();
  }
  return points;
}

// Calls `visit` with a zero of the type of numbers.
template <typename F>
ffi::Error by_type(ffi::DataType type, Numbers beyond, const F& visit) {
  if (beyond.size() != 2 && beyond.size() != 3) {
    return ffi::Error::InvalidArgument("not two or three axes");
  }
  if (type == ffi::DataType::F32) {
    visit(float());
  } else if (type == ffi::DataType::F64) {
    visit(double());
  } else {
    return ffi::Error::InvalidArgument("not float32 or float64");
  }
  return ffi::Error::Success();
}

ffi::Error read_call(ffi::ThreadPool pool, ffi::AnyBuffer image,
                     ffi::RemainingArgs coordinates,
                     ffi::Result<ffi::AnyBuffer> values, int64_t weighting,
                     Numbers beyond, Numbers period) {
  const int axes = static_cast<int>(beyond.size());
  const auto shape = values->dimensions();
  const Sizes s = sizes_of(image, shape[shape.size() - 2], weighting, beyond,
                           period);
  return by_type(image.element_type(), beyond, [&](auto zero) {
    using T = decltype(zero);
    stnjax::by_case<T>(axes, s, [&](auto which) {
      read_all(which, pool, s, image.typed_data<T>(),
               points_of<T>(coordinates, axes), values->typed_data<T>());
    });
  });
}

ffi::Error grad_coords_call(ffi::ThreadPool pool, ffi::AnyBuffer image,
                            ffi::AnyBuffer cotangent,
                            ffi::RemainingArgs coordinates,
                            ffi::RemainingRets slopes, int64_t weighting,
                            Numbers beyond, Numbers period) {
  const int axes = static_cast<int>(beyond.size());
  const auto shape = cotangent.dimensions();
  const Sizes s = sizes_of(image, shape[shape.size() - 2], weighting, beyond,
                           period);
  return by_type(image.element_type(), beyond, [&](auto zero) {
    using T = decltype(zero);
    Points<T, T> gradients = {};
    for (int a = 0; a < axes; ++a) {
      auto slope = slopes.get<ffi::AnyBuffer>(a);
      gradients.along[a] = (*slope)->template typed_data<T>();
    }
    stnjax::by_case<T>(axes, s, [&](auto which) {
      grad_coords_all(which, pool, s, image.typed_data<T>(),
                      points_of<T>(coordinates, axes),
                      cotangent.typed_data<T>(), gradients);
    });
  });
}

ffi::Error grad_image_call(ffi::ThreadPool pool, ffi::AnyBuffer values,
                           ffi::RemainingArgs coordinates,
                           ffi::Result<ffi::AnyBuffer> image,
                           int64_t weighting, Numbers beyond, Numbers period) {
  const int axes = static_cast<int>(beyond.size());
  const auto shape = values.dimensions();
  const Sizes s = sizes_of(*image, shape[shape.size() - 2], weighting, beyond,
                           period);
  return by_type(values.element_type(), beyond, [&](auto zero) {
    using T = decltype(zero);
    stnjax::by_case<T>(axes, s, [&](auto which) {
      grad_image_all(which, pool, s, values.typed_data<T>(),
                     points_of<T>(coordinates, axes), image->typed_data<T>());
    });
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

#define WITH_ATTRIBUTES(binding)     \
  binding.Attr<int64_t>("weighting") \
      .Attr<Numbers>("beyond")       \
      .Attr<Numbers>("period")

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_sampler_read, read_call,
                              WITH_ATTRIBUTES(ffi::Ffi::Bind()
                                                  .Ctx<ffi::ThreadPool>()
                                                  .Arg<ffi::AnyBuffer>()
                                                  .RemainingArgs()
                                                  .Ret<ffi::AnyBuffer>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_sampler_grad_coords, grad_coords_call,
                              WITH_ATTRIBUTES(ffi::Ffi::Bind()
                                                  .Ctx<ffi::ThreadPool>()
                                                  .Arg<ffi::AnyBuffer>()
                                                  .Arg<ffi::AnyBuffer>()
                                                  .RemainingArgs()
                                                  .RemainingRets()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stnjax_sampler_grad_image, grad_image_call,
                              WITH_ATTRIBUTES(ffi::Ffi::Bind()
                                                  .Ctx<ffi::ThreadPool>()
                                                  .Arg<ffi::AnyBuffer>()
                                                  .RemainingArgs()
                                                  .Ret<ffi::AnyBuffer>()));
