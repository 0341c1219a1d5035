"""Linear sampling of images, whose gradients read anew what they need.

Values and gradients are those of the gather kernel, by operations of their own:
`read`; `pull`, the slopes of a read along x and y; and `spread`, its adjoint.
Nothing but the image and the points is kept for the backward pass. On CPU the
three are functions of bilinear.cc, where setup.py could compile that; elsewhere
and for further derivatives they are what JAX makes of the gather kernel.
"""

from collections.abc import Callable
import ctypes
import functools
import pathlib
import re
import warnings

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.sampling.kernels import gather, taps


def serves(image: jax.Array, points: jax.Array, method: str) -> bool:
  """Whether `sample` can read this image: 2-D, floating, linearly."""
  axes = {*_axis_types(image), *_axis_types(points)}
  return (
    method == "linear"
    and points.shape[-1] == 2
    and jnp.issubdtype(image.dtype, jnp.floating)
    and image.size < 2**30  # pixels beyond are counted to in 32 bits, too
    and jax.sharding.AxisType.Explicit
    not in axes  # the rules say nothing of it
  )


def _axis_types(array: jax.Array) -> tuple[jax.sharding.AxisType, ...]:
  """Those of the mesh that an array is known to lie on."""
  return jax.typeof(array).sharding.mesh.axis_types


def sample(
  image: jax.Array, points: jax.Array, *, padding: str, align_corners: bool
) -> jax.Array:
  """Samples one image as `gather.sample` does with method "linear".

  Args:
    image: `[H, W, C]`; see `serves`.
    points: `[..., 2]` pixel coordinates, last axis (x, y).
    padding: see `gather.sample`.
    align_corners: likewise.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider.

  Gradient: that of `gather.sample`. On CPU in the same order each time,
    whatever the number of threads.
  """
  dtype = functools.reduce(
    jnp.promote_types, (image.dtype, points.dtype), jnp.float32
  )
  x, y = (
    taps.fold(taps.bound(place, size, padding), size, padding, align_corners)
    for place, size in zip(jnp.unstack(points, axis=-1), image.shape[1::-1])
  )
  operands = alike(*(a.astype(dtype) for a in (image, x.ravel(), y.ravel())))
  values = _READ.bind(*operands, padding=padding, align_corners=align_corners)
  return values.reshape(*points.shape[:-1], image.shape[-1])


def alike(*operands: jax.Array) -> list[jax.Array]:
  """Under `shard_map`, operands that vary over the same axes of the mesh."""

  def varying(operand):
    kind = jax.typeof(operand)
    kind = getattr(kind, "manual_axis_type", kind)  # JAX 0.10 has `vma` alone
    return getattr(kind, "varying", getattr(kind, "vma", frozenset()))

  every = frozenset().union(*map(varying, operands))
  missing = [tuple(every - varying(operand)) for operand in operands]
  return [
    lax.pcast(operand, axes, to="varying") if axes else operand
    for operand, axes in zip(operands, missing, strict=True)
  ]


# The operations. Each takes images [..., H, W, C] and as many sets of folded
# points x, y [..., P], NaN for a point that reads nothing. They are also traced
# while a program is lowered.


@promotion.usual
def _read(image, x, y, *, padding, align_corners):
  """`[..., P, C]`: the images at the points."""

  def read(image, x, y):
    by_axis, defined = _taps(x, y, image.shape[:-1], padding, align_corners)
    values = gather.blend(image, by_axis)
    return jnp.where(defined[:, None], values, 0)

  for _ in x.shape[:-1]:
    read = jax.vmap(read)
  return read(image, x, y)


def _taps(x, y, shape, padding, align_corners):
  """Those along x and y, and `[P]`, whether a point reads at all."""
  defined = ~(jnp.isnan(x) | jnp.isnan(y))
  by_axis = [
    taps.linear(jnp.where(defined, place, 0), size, padding, align_corners)
    for place, size in zip((x, y), shape[::-1])
  ]
  return by_axis, defined


@promotion.usual
def _slope(image, x, y, change_x, change_y, **options):
  """`[..., P, C]`: how the values change where the points move."""
  read = functools.partial(_read, image, **options)
  return jax.jvp(read, (x, y), (change_x, change_y))[1]


@promotion.usual
def _pull(image, x, y, cotangent, **options):
  """Twice `[..., P]`: the adjoint of `_slope`."""
  read = functools.partial(_read, image, **options)
  return jax.vjp(read, x, y)[1](cotangent)


@promotion.usual
def _spread(values, x, y, *, shape, **options):
  """`[..., *shape, C]`: the adjoint of `_read` in the image."""
  read = functools.partial(_read, x=x, y=y, **options)
  return jax.vjp(read, _blank(values, x, y, shape))[1](values)[0]


def _blank(values, x, y, shape):
  """Zeros `[..., *shape, C]`, to be added to.

  They vary over devices where the values do: else what is added to them would
  be summed over those.
  """
  *batch, _, channels = values.shape
  image = jnp.zeros((*batch, *shape, channels), values.dtype)
  return alike(image, values, x, y)[0]


@promotion.usual
def _spread_at_once(values, x, y, *, shape, padding, align_corners):
  """`_spread` as one scatter of all taps instead of one of each.

  For GPUs: XLA works out there what is added while it adds, and launches half
  of the kernels.
  """

  def spread(image, values, x, y):
    height, width, channels = image.shape
    by_axis, defined = _taps(x, y, shape, padding, align_corners)
    flat, parts = [], []
    for tap in gather.corners(by_axis):
      present = defined & tap.inside
      place = gather.flat_index(tap.index, shape)
      flat.append(jnp.where(present, place, height * width))
      parts.append(tap.weight[:, None] * values)
    pixels = image.reshape(height * width, channels)
    pixels = pixels.at[jnp.stack(flat, axis=1).ravel()].add(
      lax.collapse(jnp.stack(parts, axis=1), 0, 2),
      mode="drop",
      wrap_negative_indices=False,
    )
    return pixels.reshape(image.shape)

  for _ in x.shape[:-1]:
    spread = jax.vmap(spread)
  return spread(_blank(values, x, y, shape), values, x, y)


def _operation(
  name: str, reference: Callable, results: Callable, compiled: bool = True
) -> core.Primitive:
  """An operation of JAX that does what `reference` does.

  Args:
    name: ends that of the operation.
    reference: the operation by others.
    results: the shapes of its results, given those of its operands.
    compiled: whether it is in bilinear.cc.
  """
  primitive = core.Primitive(f"stnjax_bilinear_{name}")
  primitive.multiple_results = reference is _pull
  primitive.def_impl(reference)

  @primitive.def_abstract_eval
  def _(*operands, padding, align_corners, **options):
    points = operands[1]
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
    lower = _lower_compiled(primitive) if _may_call(context) else by_jax
    return lower(context, *operands, **options)

  by_jax = mlir.lower_fun(reference, primitive.multiple_results)
  mlir.register_lowering(primitive, by_jax)
  if compiled:
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
  ad.primitive_jvps[primitive] = functools.partial(_change, reference)
  batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
  return primitive


def _may_call(context: mlir.LoweringRuleContext) -> bool:
  """Whether a program may call the compiled code.

  Exported, it would run nowhere else; shared out by XLA, which cannot see into
  a call, each device would do the work of all.
  """
  module = context.module_context
  axes = module.axis_context
  if isinstance(axes, mlir.ShardingContext):
    alone = axes.num_devices == 1
  elif isinstance(axes, mlir.SPMDAxisContext):
    alone = axes.manual_axes == frozenset(axes.mesh.axis_names)
  else:
    alone = True
  return alone and not module.lowering_parameters.for_export and is_compiled()


def _lower_compiled(primitive: core.Primitive) -> mlir.LoweringRule:
  def lower(context, *operands, padding, align_corners, shape=None):
    height, width = shape or context.avals_in[0].shape[-3:-1]
    call = jax.ffi.ffi_lowering(primitive.name)
    return call(
      context,
      *operands,
      beyond_x=np.int64(_beyond(width, padding, align_corners)),
      beyond_y=np.int64(_beyond(height, padding, align_corners)),
    )

  return lower


def _beyond(size: int, padding: str, align_corners: bool) -> int:
  """The pixel that the tap after the last one falls on; -1 for none."""
  mirrored = max(size - 2, 0) if align_corners else size - 1
  return {
    "zeros": -1,
    "border": size - 1,
    "reflection": mirrored,
    "wrap": 0,
  }[padding]


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
  shared = primitive is not _SPREAD and dims[0] is None
  axis = operands[1].ndim - 1 - (dims[1] is not None) if shared else 0

  def with_axis(operand, dim):
    if dim is not None:
      return jnp.moveaxis(operand, dim, axis)
    shape = (*operand.shape[:axis], size, *operand.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(operand, axis), shape)

  if not shared:
    operands = map(with_axis, operands, dims)
    results = primitive.bind(*operands, **options)
    return results, [0] * 2 if primitive.multiple_results else 0
  image, *rest = operands
  rest = list(map(with_axis, rest, dims[1:]))
  pair = rest[0].shape[axis : axis + 2]
  rest = [lax.collapse(operand, axis, axis + 2) for operand in rest]

  def apart(result):
    before, after = result.shape[:axis], result.shape[axis + 1 :]
    return result.reshape(*before, *pair, *after)

  results = primitive.bind(image, *rest, **options)
  if primitive.multiple_results:
    return list(map(apart, results)), [axis] * 2
  return apart(results), axis


_READ = _operation("read", _read, lambda image, x, _: [(*x, image[-1])])
_SLOPE = _operation(  # runs in forward mode only
  "slope", _slope, lambda image, x, *_: [(*x, image[-1])], compiled=False
)
_PULL = _operation("pull", _pull, lambda _, x, *__: [x, x])
_SPREAD = _operation(
  "spread", _spread, lambda v, *_, shape: [(*v[:-2], *shape, v[-1])]
)

for _platform in ("cuda", "rocm"):
  mlir.register_lowering(
    _SPREAD, mlir.lower_fun(_spread_at_once, False), platform=_platform
  )

# First derivatives are operations again; `_change` does what is beyond.


def _linear_change(primitive, rest):
  """Of an operation that is linear in its first operand."""

  def rule(operands, changes, **options):
    first, *points = changes
    parts = []
    if type(first) is not ad.Zero:
      parts.append(primitive.bind(first, *operands[1:], **options))
    if not all(type(point) is ad.Zero for point in points):
      moves = tuple(map(ad.instantiate_zeros, points))
      parts.append(rest(operands, moves, **options))
    value = primitive.bind(*operands, **options)
    return value, functools.reduce(jnp.add, parts)

  return rule


def _move_read(operands, moves, **options):
  return _SLOPE.bind(*operands, *moves, **options)


def _move_spread(operands, moves, **options):
  values, *points = operands
  spread = functools.partial(_spread, values, **options)
  return jax.jvp(spread, tuple(points), moves)[1]


def _transpose_read(cotangent, image, x, y, **options):
  shape = image.aval.shape[-3:-1]
  return _SPREAD.bind(cotangent, x, y, shape=shape, **options), None, None


def _transpose_slope(cotangent, image, x, y, *moves, **options):
  pulled = _PULL.bind(image, x, y, cotangent, **options)
  wanted = map(ad.is_undefined_primal, moves)
  pulled = [to if want else None for to, want in zip(pulled, wanted)]
  return None, None, None, *pulled


def _transpose_spread(cotangent, values, x, y, *, shape, **options):
  del values, shape
  return _READ.bind(cotangent, x, y, **options), None, None


ad.primitive_jvps[_READ] = _linear_change(_READ, _move_read)
ad.primitive_jvps[_SPREAD] = _linear_change(_SPREAD, _move_spread)
ad.primitive_transposes[_READ] = _transpose_read
ad.primitive_transposes[_SLOPE] = _transpose_slope
ad.primitive_transposes[_SPREAD] = _transpose_spread

# The compiled code.


def is_compiled() -> bool:
  """Whether programs for CPU use bilinear.cc."""
  return _COMPILED


def _register(path: pathlib.Path) -> bool:
  """Makes known to XLA what setup.py made of bilinear.cc, where it did.

  At import, as programs that were compiled elsewhere call it, too.
  """
  names = [primitive.name for primitive in (_READ, _PULL, _SPREAD)]
  try:
    library = ctypes.CDLL(str(path))
    _check_version(library)
    functions = [getattr(library, name) for name in names]
    for name, function in zip(names, functions, strict=True):
      target = jax.ffi.pycapsule(function)
      jax.ffi.register_ffi_target(name, target, platform="cpu")
  except (OSError, AttributeError, RuntimeError, ValueError) as error:
    # Built for another machine, by another version or for another jaxlib.
    if path.exists():
      warnings.warn(
        f"stnjax samples without its compiled code, slower on CPU: {error}."
        " Installed with `pip install --no-build-isolation`, it is built for"
        " the jaxlib that is there.",
        RuntimeWarning,
        stacklevel=2,
      )
    return False
  return True


def _check_version(library: ctypes.CDLL) -> None:
  """Raises where a library was built for a newer jaxlib than is there.

  XLA would refuse it only when the backend starts, and with it all of JAX.
  """
  built = tuple((ctypes.c_int32 * 2).in_dll(library, "stnjax_bilinear_api"))
  header = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
  defined = re.findall(
    r"define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header.read_text()
  )
  if built > tuple(map(int, defined)):
    raise RuntimeError(
      f"it was built for version {built[0]}.{built[1]} of XLA's interface, and"
      f" jaxlib has {'.'.join(defined)}"
    )


_COMPILED = _register(pathlib.Path(__file__).with_name("libbilinear.ffi"))
