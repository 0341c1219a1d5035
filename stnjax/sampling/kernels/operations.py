"""Sampling and its derivatives as operations of JAX.

`read`, the values, which are bytes if pixels are; `slope`, their change as the
points move; `grad_coords`, their gradient with respect to the points;
`grad_image`, with respect to the image. On CPU all but `slope` are functions of
sampler.cc, where setup.py could compile it, on NVIDIA GPUs `read` and
`grad_coords` of linear images are Triton kernels; elsewhere and for further
derivatives they are those of `plain`. Remainders of paddings that repeat are
such functions, too.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import primitives
from stnjax.sampling.kernels import library, plain
from stnjax.sampling.methods import CUBIC, LINEAR, NEAREST, Method
from stnjax.sampling.padding import REMAINDER, divided
from stnjax.sampling.splines import SPLINE

_WEIGHTINGS = {
  (method.weights, method.pads_position): code
  for code, method in enumerate((NEAREST, LINEAR, CUBIC, SPLINE))
}

_OPTIONS = ("method", "padding", "align_corners", "shape", "output_shape")


def weighting(method: Method) -> int | None:
  """The code in places.h of a method's weights; None where there is none."""
  return _WEIGHTINGS.get((method.weights, method.pads_position))


def operation(
  name: str,
  reference: Callable,
  results: Callable,
  on_cpu: Callable | None = None,
) -> core.Primitive:
  """An operation of JAX that does what `reference` does.

  Args:
    name: End of the operation's name.
    reference: The operation by other operations.
    results: Shapes of its results, given those of its operands.
    on_cpu: The operation on CPU where nothing is compiled, if that is another.
  """
  several = reference is plain.grad_coords

  def shapes(*operands, method, padding, align_corners, **options):
    return results(*operands, **options)

  primitive = primitives.define(
    f"stnjax_sampler_{name}", shapes, _OPTIONS, multiple_results=several
  )

  by_jax = primitives.lowering(reference, multiple_results=several)
  elsewhere = primitives.lowering(on_cpu or reference, multiple_results=several)
  mlir.register_lowering(primitive, by_jax)
  if primitive.name in library.FUNCTIONS:
    for_cpu = library.lowering(_lower_compiled(primitive), elsewhere)
    mlir.register_lowering(primitive, for_cpu, platform="cpu")
  ad.primitive_jvps[primitive] = functools.partial(_change, reference)
  batching.primitive_batchers[primitive] = functools.partial(batch, primitive)
  return primitive


def _lower_compiled(primitive: core.Primitive) -> mlir.LoweringRule:
  def lower(
    context,
    *operands,
    method,
    padding,
    align_corners,
    shape=None,
    output_shape=None,
  ):
    num_axes = len(operands) - (2 if primitive is GRAD_COORDS else 1)
    if output_shape is not None:
      num_axes = len(output_shape)
    sizes = shape or context.avals_in[0].shape[-num_axes - 1 : -1]
    beyond, period = [], []
    for axis, size in enumerate(sizes[::-1]):
      along = padding.along(axis)
      beyond.append(along.pixel_after(size, align_corners))
      repeats = along.period is not None
      period.append(along.period(size, align_corners) if repeats else 0)
    call = jax.ffi.ffi_lowering(primitive.name)
    return call(
      context,
      *operands,
      weighting=np.int64(weighting(method)),
      beyond=np.array(beyond, np.int64),
      period=np.array(period, np.int64),
    )

  return lower


def _change(reference, operands, changes, **options):
  """Value and change, as JAX works them out."""
  return jax.jvp(
    functools.partial(reference, **options),
    operands,
    tuple(map(ad.instantiate_zeros, changes)),
  )


def batch(primitive, operands, dims, **options):
  """A new axis is one of the batch; of the points where they share an image."""
  (size,) = {a.shape[d] for a, d in zip(operands, dims) if d is not None}
  gathers = primitive in (READ, _SLOPE, GRAD_COORDS)
  shared = gathers and dims[0] is None
  axis = operands[-1].ndim - 1 - (dims[-1] is not None) if shared else 0

  def with_axis(operand, dim):
    if dim is not None:
      return jnp.moveaxis(operand, dim, axis)
    shape = (*operand.shape[:axis], size, *operand.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(operand, axis), shape)

  if not shared:
    operands = map(with_axis, operands, dims)
    results = primitive.bind(*operands, **options)
    several = primitive.multiple_results
    return results, [0] * len(results) if several else 0
  image, *rest = operands
  rest = list(map(with_axis, rest, dims[1:]))
  pair = rest[0].shape[axis : axis + 2]
  rest = [lax.collapse(operand, axis, axis + 2) for operand in rest]

  def apart(result):
    before, after = result.shape[:axis], result.shape[axis + 1 :]
    return result.reshape(*before, *pair, *after)

  results = primitive.bind(image, *rest, **options)
  if primitive.multiple_results:
    return list(map(apart, results)), [axis] * len(results)
  return apart(results), axis


READ = operation("read", plain.read, lambda image, x, *_: [(*x, image[-1])])
_SLOPE = operation(  # runs in forward mode only, and is never compiled code
  "slope", plain.slope, lambda image, x, *_: [(*x, image[-1])]
)
GRAD_COORDS = operation(
  "grad_coords",
  plain.grad_coords,
  lambda _, __, *points: list(points),
  plain.grad_coords_on_cpu,
)
GRAD_IMAGE = operation(
  "grad_image",
  plain.grad_image,
  lambda v, *_, shape: [(*v[:-2], *shape, v[-1])],
  plain.grad_image_on_cpu,
)


def _remainder(positions, *, period):
  return primitives.call_compiled(
    REMAINDER.name,
    (positions,),
    positions.shape,
    positions.dtype,
    period=np.int64(period),
  )


# The padding's own operation, which is defined without the library.
mlir.register_lowering(
  REMAINDER,
  library.lowering(
    primitives.lowering(_remainder), primitives.lowering(divided)
  ),
  platform="cpu",
)

for _platform in ("cuda", "rocm"):
  mlir.register_lowering(
    GRAD_IMAGE,
    primitives.lowering(plain.grad_image_at_once),
    platform=_platform,
  )


def _lower_for_cuda(
  primitive: core.Primitive, name: str, reference: Callable
) -> None:
  """Lowers an operation to the Triton kernel of that name where it can run."""
  several = primitive.multiple_results
  by_jax = primitives.lowering(reference, multiple_results=several)

  def lower(context, *operands, **options):
    from stnjax.sampling.kernels import triton  # Pallas takes long to import

    arrays = *context.avals_in, *context.avals_out
    num_axes = len(operands) - (1 if primitive is READ else 2)
    # The others are right where they are interpreted, but ran on no GPU yet.
    measured = options["method"] is LINEAR and num_axes == 2
    measured &= jnp.issubdtype(context.avals_in[0].dtype, jnp.floating)
    if not (
      measured and library.may_call(context) and triton.supports(*arrays)
    ):
      return by_jax(context, *operands, **options)
    kernel = primitives.lowering(
      getattr(triton, name), multiple_results=several
    )
    return kernel(context, *operands, **options)

  mlir.register_lowering(primitive, lower, platform="cuda")


_lower_for_cuda(READ, "read", plain.read)
_lower_for_cuda(GRAD_COORDS, "grad_coords", plain.grad_coords)

# First derivatives are operations again; `_change` does what is beyond.


def linear_change(primitive, rest):
  """Of an operation that is linear in its first operand."""

  def rule(operands, changes, *, method, **options):
    options["method"] = method
    first, *points = changes
    value = primitive.bind(*operands, **options)
    parts = []
    if type(first) is not ad.Zero:
      parts.append(primitive.bind(first, *operands[1:], **options))
    still = all(type(point) is ad.Zero for point in points)
    still |= method.copies_pixels or value.dtype == jnp.uint8
    if not still:
      moves = tuple(map(ad.instantiate_zeros, points))
      parts.append(rest(operands, moves, **options))
    if not parts:
      return value, ad.Zero(jax.typeof(value).to_tangent_aval())
    return value, functools.reduce(jnp.add, parts)

  return rule


def _move_read(operands, moves, **options):
  return _SLOPE.bind(*operands, *moves, **options)


def _move_grad_image(operands, moves, **options):
  values, *points = operands
  add = functools.partial(plain.grad_image, values, **options)
  return jax.jvp(add, tuple(points), tuple(moves))[1]


def _transpose_read(cotangent, image, *points, **options):
  shape = image.aval.shape[-len(points) - 1 : -1]
  to_image = GRAD_IMAGE.bind(cotangent, *points, shape=shape, **options)
  return to_image, *[None] * len(points)


def _transpose_slope(cotangent, image, *operands, **options):
  points, moves = plain.halves(operands)
  still = [None] * len(points)
  if ad.is_undefined_primal(image):
    to_image = _along(image, cotangent, points, moves, **options)
    return to_image, *still, *still
  gradients = GRAD_COORDS.bind(image, cotangent, *points, **options)
  wanted = map(ad.is_undefined_primal, moves)
  gradients = [g if want else None for g, want in zip(gradients, wanted)]
  return None, *still, *gradients


def _transpose_grad_coords(moves, image, cotangent, *points, **options):
  moves = list(map(ad.instantiate_zeros, moves))
  still = [None] * len(points)
  if ad.is_undefined_primal(image):
    return _along(image, cotangent, points, moves, **options), None, *still
  return None, _SLOPE.bind(image, *points, *moves, **options), *still


def _along(image, values, points, moves, **options):
  """The adjoint of `slope` in the image."""
  shape = image.aval.shape[-len(points) - 1 : -1]
  return _move_grad_image((values, *points), moves, shape=shape, **options)


def _transpose_grad_image(cotangent, values, *points, shape, **options):
  del values, shape
  to_values = READ.bind(cotangent, *points, **options)
  return to_values, *[None] * len(points)


ad.primitive_jvps[READ] = linear_change(READ, _move_read)
ad.primitive_jvps[GRAD_IMAGE] = linear_change(GRAD_IMAGE, _move_grad_image)
ad.primitive_transposes[READ] = _transpose_read
ad.primitive_transposes[_SLOPE] = _transpose_slope
ad.primitive_transposes[GRAD_COORDS] = _transpose_grad_coords
ad.primitive_transposes[GRAD_IMAGE] = _transpose_grad_image
