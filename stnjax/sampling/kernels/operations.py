"""Sampling and its derivatives as operations of JAX.

`read`, the values; `slope`, their change as the points move; `grad_coords`,
their gradient with respect to the points; `grad_image`, with respect to the
image. On CPU all but `slope` are functions of sampler.cc, where setup.py could
compile it; elsewhere and for further derivatives, what JAX makes of the gather
kernel.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.sampling.kernels import gather, library, tap_by_tap, taps
from stnjax.sampling.methods import CUBIC, LINEAR, NEAREST, Method
from stnjax.sampling.splines import SPLINE

_WEIGHTINGS = {
  (method.weights, method.pads_position): code
  for code, method in enumerate((NEAREST, LINEAR, CUBIC, SPLINE))
}


def weighting(method: Method) -> int | None:
  """The code in places.h of a method's weights; None where there is none."""
  return _WEIGHTINGS.get((method.weights, method.pads_position))


def match_varying_axes(*operands: jax.Array) -> list[jax.Array]:
  """Under `shard_map`, operands that vary over the same axes of the mesh."""

  def varying_axes(operand):
    kind = jax.typeof(operand)
    kind = getattr(kind, "manual_axis_type", kind)  # JAX 0.10 has `vma` alone
    return getattr(kind, "varying", getattr(kind, "vma", frozenset()))

  every = frozenset().union(*map(varying_axes, operands))
  missing = [tuple(every - varying_axes(operand)) for operand in operands]
  return [
    lax.pcast(operand, axes, to="varying") if axes else operand
    for operand, axes in zip(operands, missing, strict=True)
  ]


# The operations. Each takes images [..., (D,) H, W, C] and as many sets of
# points x, y(, z) [..., P], which are padded as `compiled.sample` does it, NaN
# for a point that reads nothing. They are also traced while a program is
# lowered.


@promotion.usual
def _read(image, *points, method, padding, align_corners):
  """`[..., P, C]`: the images at the points."""

  def read(image, *points):
    shape = image.shape[:-1]
    by_axis, defined = _taps(points, shape, method, padding, align_corners)
    values = gather.blend(image, by_axis).astype(points[0].dtype)
    return jnp.where(defined[:, None], values, 0)

  for _ in points[0].shape[:-1]:
    read = jax.vmap(read)
  return read(image, *points)


def _taps(points, shape, method, padding, align_corners):
  """The taps along x, y(, z), and `[P]`, whether a point reads at all."""
  defined = ~functools.reduce(jnp.logical_or, map(jnp.isnan, points))
  by_axis = [
    taps.around(
      jnp.where(defined, place, 0),
      size,
      method,
      padding.along(axis),
      align_corners,
    )
    for axis, (place, size) in enumerate(zip(points, shape[::-1], strict=True))
  ]
  return by_axis, defined


@promotion.usual
def _slope(image, *operands, **options):
  """`[..., P, C]`: how the values change where the points move."""
  points, moves = _halves(operands)
  read = functools.partial(_read, image, **options)
  return jax.jvp(read, points, moves)[1]


def _halves(operands):
  half = len(operands) // 2
  return operands[:half], operands[half:]


@promotion.usual
def _grad_coords(image, cotangent, *points, **options):
  """For each axis `[..., P]`: the adjoint of `_slope`."""
  read = functools.partial(_read, image, **options)
  return jax.vjp(read, *points)[1](cotangent)


@promotion.usual
def grad_image(values, *points, shape, **options):
  """`[..., *shape, C]`: the adjoint of `_read` in the image."""

  def read(image):
    return _read(image, *points, **options)

  return jax.vjp(read, _blank(values, points, shape))[1](values)[0]


def _blank(values, points, shape):
  """Zeros `[..., *shape, C]`, to be added to.

  They vary over devices where the values do: else what is added to them would
  be summed over those.
  """
  *batch, _, channels = values.shape
  image = jnp.zeros((*batch, *shape, channels), values.dtype)
  return match_varying_axes(image, values, *points)[0]


@promotion.usual
def grad_image_at_once(values, *points, shape, method, padding, align_corners):
  """`grad_image` as one scatter of all taps instead of one of each.

  For GPUs: XLA computes the terms while it adds them, with half as many kernel
  launches.
  """

  def add(image, values, *points):
    by_axis, defined = _taps(points, shape, method, padding, align_corners)
    count = math.prod(shape)
    flat, parts = [], []
    for tap in gather.corners(by_axis):
      present = defined & tap.inside
      place = gather.flat_index(tap.index, shape)
      flat.append(jnp.where(present, place, count))
      weighted = tap.weight is not None
      parts.append(tap.weight[:, None] * values if weighted else values)
    pixels = image.reshape(count, image.shape[-1])
    pixels = pixels.at[jnp.stack(flat, axis=1).ravel()].add(
      lax.collapse(jnp.stack(parts, axis=1), 0, 2),
      mode="drop",
      wrap_negative_indices=False,
    )
    return pixels.reshape(image.shape)

  for _ in points[0].shape[:-1]:
    add = jax.vmap(add)
  return add(_blank(values, points, shape), values, *points)


@promotion.usual
def _grad_coords_on_cpu(image, cotangent, *points, method, **options):
  """`_grad_coords`, without a copy of the image for each of many taps."""
  options["method"] = method
  floating = jnp.issubdtype(image.dtype, jnp.floating)
  many = method.support > tap_by_tap.MANY
  # The places of the taps are no less than an image of one channel.
  if not floating or not many or image.shape[-1] == 1:
    return _grad_coords(image, cotangent, *points, **options)
  gradient = functools.partial(tap_by_tap.grad_coords, **options)
  for _ in points[0].shape[:-1]:
    gradient = jax.vmap(gradient)
  return gradient(image, cotangent, *points)


@promotion.usual
def _grad_image_on_cpu(values, *points, shape, method, **options):
  """`grad_image`, without a copy of the image for each of many taps."""
  options["method"] = method
  if method.support <= tap_by_tap.MANY:
    return grad_image(values, *points, shape=shape, **options)
  add = functools.partial(tap_by_tap.grad_image, **options)
  for _ in points[0].shape[:-1]:
    add = jax.vmap(add)
  return add(_blank(values, points, shape), values, *points)


def _operation(
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
  primitive = core.Primitive(f"stnjax_sampler_{name}")
  primitive.multiple_results = reference is _grad_coords
  primitive.def_impl(reference)

  @primitive.def_abstract_eval
  def _(*operands, method, padding, align_corners, **options):
    points = operands[-1]
    shapes = results(*(operand.shape for operand in operands), **options)
    outputs = [  # over the axes of a mesh they vary as the operands do
      points.update(
        shape=shape,
        sharding=jax.NamedSharding(
          points.sharding.mesh, jax.P(*[None] * len(shape))
        ),
      )
      for shape in shapes
    ]
    return outputs if primitive.multiple_results else outputs[0]

  def lower_for_cpu(context, *operands, **options):
    calls = library.is_compiled() and _may_call(context)
    lower = _lower_compiled(primitive) if calls else plain
    return lower(context, *operands, **options)

  by_jax = mlir.lower_fun(reference, primitive.multiple_results)
  plain = mlir.lower_fun(on_cpu or reference, primitive.multiple_results)
  mlir.register_lowering(primitive, by_jax)
  if primitive.name in library.FUNCTIONS:
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
  ad.primitive_jvps[primitive] = functools.partial(_change, reference)
  batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
  return primitive


def _may_call(context: mlir.LoweringRuleContext) -> bool:
  """Whether a program may call the compiled code.

  Exported, it would run nowhere else; if XLA partitions the batch, it cannot
  see into a call, and each device would do the work of all.
  """
  module = context.module_context
  axes = module.axis_context
  if isinstance(axes, mlir.ShardingContext):
    alone = axes.num_devices == 1
  elif isinstance(axes, mlir.SPMDAxisContext):
    alone = axes.manual_axes == frozenset(axes.mesh.axis_names)
  else:
    alone = True
  return alone and not module.lowering_parameters.for_export


def _lower_compiled(primitive: core.Primitive) -> mlir.LoweringRule:
  def lower(context, *operands, method, padding, align_corners, shape=None):
    num_axes = len(operands) - (2 if primitive is _GRAD_COORDS else 1)
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


def _batch(primitive, operands, dims, **options):
  """A new axis is one of the batch; of the points where they share an image."""
  (size,) = {a.shape[d] for a, d in zip(operands, dims) if d is not None}
  shared = primitive is not _GRAD_IMAGE and dims[0] is None
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


READ = _operation("read", _read, lambda image, x, *_: [(*x, image[-1])])
_SLOPE = _operation(  # runs in forward mode only, and is never compiled code
  "slope", _slope, lambda image, x, *_: [(*x, image[-1])]
)
_GRAD_COORDS = _operation(
  "grad_coords",
  _grad_coords,
  lambda _, __, *points: list(points),
  _grad_coords_on_cpu,
)
_GRAD_IMAGE = _operation(
  "grad_image",
  grad_image,
  lambda v, *_, shape: [(*v[:-2], *shape, v[-1])],
  _grad_image_on_cpu,
)

for _platform in ("cuda", "rocm"):
  mlir.register_lowering(
    _GRAD_IMAGE, mlir.lower_fun(grad_image_at_once, False), platform=_platform
  )


def _lower_for_cuda(
  primitive: core.Primitive, name: str, reference: Callable
) -> None:
  """Lowers an operation to the Triton kernel of that name where it can run."""
  several = primitive.multiple_results
  by_jax = mlir.lower_fun(reference, several)

  def lower(context, *operands, **options):
    from stnjax.sampling.kernels import triton  # Pallas takes long to import

    arrays = *context.avals_in, *context.avals_out
    num_axes = len(operands) - (1 if primitive is READ else 2)
    # The others are right where they are interpreted, but ran on no GPU yet.
    measured = options["method"] is LINEAR and num_axes == 2
    measured &= jnp.issubdtype(context.avals_in[0].dtype, jnp.floating)
    if not (measured and _may_call(context) and triton.supports(*arrays)):
      return by_jax(context, *operands, **options)
    kernel = mlir.lower_fun(getattr(triton, name), several)
    return kernel(context, *operands, **options)

  mlir.register_lowering(primitive, lower, platform="cuda")


_lower_for_cuda(READ, "read", _read)
_lower_for_cuda(_GRAD_COORDS, "grad_coords", _grad_coords)

# First derivatives are operations again; `_change` does what is beyond.


def _linear_change(primitive, rest):
  """Of an operation that is linear in its first operand."""

  def rule(operands, changes, *, method, **options):
    options["method"] = method
    first, *points = changes
    value = primitive.bind(*operands, **options)
    parts = []
    if type(first) is not ad.Zero:
      parts.append(primitive.bind(first, *operands[1:], **options))
    still = all(type(point) is ad.Zero for point in points)
    if not still and not method.copies_pixels:
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
  add = functools.partial(grad_image, values, **options)
  return jax.jvp(add, tuple(points), moves)[1]


def _transpose_read(cotangent, image, *points, **options):
  shape = image.aval.shape[-len(points) - 1 : -1]
  to_image = _GRAD_IMAGE.bind(cotangent, *points, shape=shape, **options)
  return to_image, *[None] * len(points)


def _transpose_slope(cotangent, image, *operands, **options):
  points, moves = _halves(operands)
  gradients = _GRAD_COORDS.bind(image, cotangent, *points, **options)
  wanted = map(ad.is_undefined_primal, moves)
  gradients = [g if want else None for g, want in zip(gradients, wanted)]
  return None, *[None] * len(points), *gradients


def _transpose_grad_image(cotangent, values, *points, shape, **options):
  del values, shape
  to_values = READ.bind(cotangent, *points, **options)
  return to_values, *[None] * len(points)


ad.primitive_jvps[READ] = _linear_change(READ, _move_read)
ad.primitive_jvps[_GRAD_IMAGE] = _linear_change(_GRAD_IMAGE, _move_grad_image)
ad.primitive_transposes[READ] = _transpose_read
ad.primitive_transposes[_SLOPE] = _transpose_slope
ad.primitive_transposes[_GRAD_IMAGE] = _transpose_grad_image
