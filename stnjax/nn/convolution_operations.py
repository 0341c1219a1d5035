"""The convolution and its two gradients as operations of JAX.

On CPU each takes the form that is fast for its sizes: XLA's convolution of
operands that are laid out for it, or a product with a banded matrix. XLA's own
gradients name other layouts instead, and are then, within loops, computed
number by number; for each seed of a `vmap` over kernels XLA does the work of
all. On NVIDIA GPUs small layers are products, and elsewhere all is XLA's.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from stnjax import promotion
from stnjax.nn import banded

_Pads = tuple[tuple[int, int], tuple[int, int]]

# Since this version, convolutions of XLA for CPU reach the speed of products.
_FAST = jax.__version_info__ >= (0, 12)
_MOST_SUMMANDS = 2500  # of a number, before that version
_LEAST_PIXELS = 512  # of the output, before that version
_LEAST_CHANNELS = (32, 8)  # before that version, and since

# Pixels of the image for one of the output, from which on most that a
# convolution reads for the image's gradient is padding.
_MOST_PADDED = 1.8

# Images, the channels of a convolution for the kernel's gradient: 256 of 18x18
# pixels with 64 channels took three times as long at once.
_PIECE = 64
_MOST_PIECES = 16

# On GPU, numbers of the larger factor of the product for an image; 256 images
# take 128 MB.
_MOST_ON_GPU = 2**17


def convolve(
  images: jax.Array, kernel: jax.Array, pads: Sequence[tuple[int, int]]
) -> jax.Array:
  """Convolves with stride 1.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[kh, kw, C, F]`, of the same dtype.
    pads: Rows before and after an image, then columns, of zeros.

  Returns:
    `[B, h, w, F]`.
  """
  (top, bottom), (left, right) = pads
  around = (top, bottom), (left, right)
  size = _out_size(images.shape[1:3], kernel.shape[:2], around)
  if any(length < 1 for length in size):
    return _convolution(images, kernel, around)
  images, kernel = promotion.match_varying_axes(images, kernel)
  result: jax.Array = _OUT.bind(
    *(images[None], kernel[None]),
    pads=around,
    precision=jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
  )
  return result[0]


# The forms. Images are `[B, H, W, C]`, cotangents `[B, h, w, F]`, kernels `[kh,
# kw, C, F]`; operations have an axis of seeds before these.


def _convolution(images: Any, kernel: Any, pads: _Pads) -> jax.Array:
  result: jax.Array = lax.conv_general_dilated(
    images, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return result


def _product(images: Any, kernel: Any, pads: _Pads) -> jax.Array:
  return banded.banded_conv(jnp.pad(images, [(0, 0), *pads, (0, 0)]), kernel)


def _convolution_to_image(
  kernel: jax.Array, cotangent: jax.Array, pads: _Pads
) -> jax.Array:
  window = kernel.shape[:2]
  before_after = [
    (size - 1 - before, size - 1 - after)
    for size, (before, after) in zip(window, pads, strict=True)
  ]
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  # XLA would take the turn into the convolution, which is slow then.
  turned = lax.optimization_barrier(turned)
  return _convolution(cotangent, turned, (before_after[0], before_after[1]))


def _convolution_to_kernel(
  images: jax.Array, cotangent: jax.Array, pads: _Pads
) -> jax.Array:
  def of(piece: slice) -> jax.Array:
    # Laid out as a convolution takes them, not named as such by its axes.
    by_channel, window = lax.optimization_barrier(
      (
        images[piece].transpose(3, 1, 2, 0),
        cotangent[piece].transpose(1, 2, 0, 3),
      )
    )
    return _convolution(by_channel, window, pads).transpose(1, 2, 0, 3)

  batch = images.shape[0]
  if not isinstance(batch, int) or batch <= _PIECE:  # it can be symbolic
    return of(slice(None))
  length = max(_PIECE, -(-batch // _MOST_PIECES))
  pieces = [of(slice(i, i + length)) for i in range(0, batch, length)]
  return functools.reduce(jnp.add, pieces)


def _transposed_to_image(
  form: Callable[..., Any],
  kernel: jax.Array,
  cotangent: jax.Array,
  pads: _Pads,
) -> jax.Array:
  shape = _image_shape(kernel.shape, cotangent.shape, pads)
  convolve = functools.partial(form, kernel=kernel, pads=pads)
  return _transposed(convolve, shape, cotangent)


def _transposed_to_kernel(
  form: Callable[..., Any],
  images: jax.Array,
  cotangent: jax.Array,
  pads: _Pads,
) -> jax.Array:
  shape = _kernel_shape(images.shape, cotangent.shape, pads)
  convolve = functools.partial(form, images, pads=pads)
  return _transposed(convolve, shape, cotangent)


def _transposed(
  linear: Callable[..., Any], shape: tuple[int, ...], cotangent: jax.Array
) -> jax.Array:
  """The transpose of a linear function of an operand of that shape."""
  # Under `shard_map`, the gradient of one that is the same on all devices
  # would be summed over them.
  operand, _ = promotion.match_varying_axes(
    jnp.zeros(shape, cotangent.dtype), cotangent
  )
  result: jax.Array
  (result,) = jax.vjp(linear, operand)[1](cotangent)
  return result


# Shapes, with or without the axis of seeds.


def _out_size(
  sizes: Sequence[int], window: Sequence[int], pads: _Pads
) -> tuple[int, ...]:
  """Of the output, given the kernel; of the kernel, given the output."""
  return tuple(
    size + sum(pad) - w + 1
    for size, w, pad in zip(sizes, window, pads, strict=True)
  )


def _out_shape(images: Any, kernel: Any, pads: _Pads) -> tuple[int, ...]:
  size = _out_size(images[-3:-1], kernel[-4:-2], pads)
  return *images[:-3], *size, kernel[-1]


def _image_shape(kernel: Any, cotangent: Any, pads: _Pads) -> tuple[int, ...]:
  size = tuple(
    s + w - 1 - sum(pad)
    for s, w, pad in zip(cotangent[-3:-1], kernel[-4:-2], pads, strict=True)
  )
  return *cotangent[:-3], *size, kernel[-2]


def _kernel_shape(images: Any, cotangent: Any, pads: _Pads) -> tuple[int, ...]:
  window = _out_size(images[-3:-1], cotangent[-3:-1], pads)
  return *images[:-4], *window, images[-1], cotangent[-1]


# Which form is faster on CPU, measured on 2 cores for layers of 1 to 192
# channels, kernels of 3 to 9 pixels, and 1 or 5 seeds.


def _is_wide(images: Any) -> bool:
  channels = images[-1]
  return isinstance(channels, int) and channels >= _LEAST_CHANNELS[_FAST]


def _by_convolution(images: Any, kernel: Any, out: Any) -> bool:
  """Whether the output is, and the kernel's gradient.

  They are products together, as these share the larger factor.
  """
  summands = math.prod(kernel[-4:-1])
  pixels = math.prod(out[-3:-1])
  fast: bool = _FAST or summands <= _MOST_SUMMANDS and pixels >= _LEAST_PIXELS
  return fast and _is_wide(images)


def _image_by_convolution(images: Any, kernel: Any, out: Any) -> bool:
  padded = math.prod(images[-3:-1]) / math.prod(out[-3:-1])
  return _is_wide(images) and padded <= _MOST_PADDED


def _fits_gpu(images: Any, kernel: Any) -> bool:
  image_size = math.prod(images[-3:])  # the batch can be symbolic
  height, width = kernel[-4:-2]
  seen: float = image_size * height * (1 + (width - 1) / banded.TILE)
  return seen <= _MOST_ON_GPU


def _as_traced(form: Callable[..., Any]) -> Callable[..., Any]:
  """A form in the modes of JAX in which the operation was traced.

  It is traced later, while a program is lowered.
  """

  @promotion.usual
  def run(first: Any, second: Any, pads: _Pads, precision: str | None) -> Any:
    with contextlib.ExitStack() as modes:
      modes.enter_context(jax.default_matmul_precision(precision))
      if first.dtype.itemsize >= 8:
        modes.enter_context(jax.enable_x64(True))
      return form(first, second, pads)

  return run


def _operation(
  name: str,
  shape: Callable[..., Any],
  order: Callable[..., Any],
  *,
  xla: Callable[..., Any],
  on_cpu: Callable[..., Any],
  product: Callable[..., Any],
  is_convolution: Callable[..., Any],
) -> core.Primitive:
  """An operation of JAX on two operands and a mapped axis of seeds.

  Args:
    name: End of the operation's name.
    shape: Shape of the result, of those of the operands.
    order: From the shapes of both operands and the result, those of images,
      kernel and output.
    xla: The form on accelerators.
    on_cpu: The convolution on CPU.
    product: The form by products.
    is_convolution: Whether it is to be `on_cpu`, of the shapes in `order`.
  """
  primitive = core.Primitive(f"stnjax_convolution_{name}")

  @functools.partial(jax.jit, static_argnames=("pads", "precision"))
  def compiled(first: Any, second: Any, **options: Any) -> Any:
    return primitive.bind(first, second, **options)

  @jax.disable_jit(False)
  def evaluated(first: Any, second: Any, **options: Any) -> Any:
    return compiled(first, second, **options)

  def abstract(
    first: Any, second: Any, pads: _Pads, precision: str | None
  ) -> Any:
    result = shape(first.shape, second.shape, pads)
    return promotion.abstract_result(first, result, first.dtype)

  primitive.def_impl(evaluated)
  primitive.def_abstract_eval(abstract)

  def shapes(first: Any, second: Any, pads: _Pads) -> tuple[Any, Any, Any]:
    result = shape(first.shape, second.shape, pads)
    ordered: tuple[Any, Any, Any] = order(first.shape, second.shape, result)
    return ordered

  def for_cpu(first: jax.Array, second: jax.Array, pads: _Pads) -> Any:
    known = isinstance(first.shape[0], int)  # the number of seeds
    if not (known and is_convolution(*shapes(first, second, pads))):
      return jax.vmap(functools.partial(product, pads=pads))(first, second)
    if first.shape[0] == 1:
      return on_cpu(first[0], second[0], pads)[None]
    return lax.map(lambda pair: on_cpu(*pair, pads), (first, second))

  def for_gpu(first: jax.Array, second: jax.Array, pads: _Pads) -> Any:
    images, kernel, _ = shapes(first, second, pads)
    form = product if _fits_gpu(images, kernel) else xla
    return jax.vmap(functools.partial(form, pads=pads))(first, second)

  def for_others(first: jax.Array, second: jax.Array, pads: _Pads) -> Any:
    return jax.vmap(functools.partial(xla, pads=pads))(first, second)

  for platform, form in {
    None: for_others,
    "cpu": for_cpu,
    "cuda": for_gpu,
  }.items():
    lower = mlir.lower_fun(_as_traced(form), multiple_results=False)
    mlir.register_lowering(primitive, lower, platform=platform)
  return primitive


_OUT = _operation(
  "out",
  _out_shape,
  lambda images, kernel, out: (images, kernel, out),
  xla=_convolution,
  on_cpu=_convolution,
  product=_product,
  is_convolution=_by_convolution,
)
_IMAGE_GRADIENT = _operation(
  "image_gradient",
  _image_shape,
  lambda kernel, out, images: (images, kernel, out),
  xla=functools.partial(_transposed_to_image, _convolution),
  on_cpu=_convolution_to_image,
  product=functools.partial(_transposed_to_image, _product),
  is_convolution=_image_by_convolution,
)
_KERNEL_GRADIENT = _operation(
  "kernel_gradient",
  _kernel_shape,
  lambda images, out, kernel: (images, kernel, out),
  xla=functools.partial(_transposed_to_kernel, _convolution),
  on_cpu=_convolution_to_kernel,
  product=functools.partial(_transposed_to_kernel, _product),
  is_convolution=_by_convolution,
)


# <out, cotangent> is linear in images, kernel and cotangent: the gradients of
# each operation are the other two.
ad.defbilinear(
  _OUT,
  lambda ct, _, kernel, **options: _IMAGE_GRADIENT.bind(kernel, ct, **options),
  lambda ct, images, _, **options: _KERNEL_GRADIENT.bind(images, ct, **options),
)
ad.defbilinear(
  _IMAGE_GRADIENT,
  lambda ct, _, out, **options: _KERNEL_GRADIENT.bind(ct, out, **options),
  lambda ct, kernel, _, **options: _OUT.bind(ct, kernel, **options),
)
ad.defbilinear(
  _KERNEL_GRADIENT,
  lambda ct, _, out, **options: _IMAGE_GRADIENT.bind(ct, out, **options),
  lambda ct, images, _, **options: _OUT.bind(images, ct, **options),
)


def _batch(
  primitive: core.Primitive,
  kernel_at: int | None,
  operands: Sequence[Any],
  dims: Sequence[int | None],
  **options: Any,
) -> tuple[jax.Array, int]:
  """A new axis is one of the batch where all share a kernel, else of seeds."""
  (size,) = {a.shape[d] for a, d in zip(operands, dims) if d is not None}
  shared = kernel_at is not None and dims[kernel_at] is None
  axis, pair = int(shared), None
  merged = []
  for index, (operand, dim) in enumerate(zip(operands, dims, strict=True)):
    if not (shared and index == kernel_at):
      if dim is None:
        operand, dim = jnp.broadcast_to(operand, (size, *operand.shape)), 0
      operand = jnp.moveaxis(operand, dim, axis)
      pair = operand.shape[axis : axis + 2]
      operand = lax.collapse(operand, axis, axis + 2)
    merged.append(operand)
  assert pair is not None, "one operand is not the kernel"
  result = primitive.bind(*merged, **options)
  before, after = result.shape[:axis], result.shape[axis + 1 :]
  return result.reshape(*before, *pair, *after), axis


for _primitive, _kernel_at in (
  (_OUT, 1),
  (_IMAGE_GRADIENT, 0),
  (_KERNEL_GRADIENT, None),
):
  batching.primitive_batchers[_primitive] = functools.partial(
    _batch, _primitive, _kernel_at
  )
