"""The convolution and its two gradients as operations of JAX.

On CPU each takes the form that is fast for its sizes: XLA's convolution of
operands that are laid out for it, or a product with a banded matrix. XLA's own
gradients name other layouts instead, and are then, within loops, computed
number by number; for each seed of a `vmap` over kernels XLA does the work of
all. On NVIDIA GPUs small layers are products, and elsewhere all is XLA's.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from stnjax import primitives, promotion
from stnjax.nn import banded
from stnjax.nn import convolution_forms as forms

# Since this version, convolutions of XLA for CPU reach the speed of products.
_FAST = jax.__version_info__ >= (0, 12)
_MOST_SUMMANDS = 2500  # of a number, before that version
_LEAST_PIXELS = 512  # of the output, before that version
_LEAST_CHANNELS = (32, 8)  # before that version, and since

# Pixels of the image for one of the output, from which on most that a
# convolution reads for the image's gradient is padding.
_MOST_PADDED = 1.8

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
  size = forms.out_size(images.shape[1:3], kernel.shape[:2], around)
  if any(length < 1 for length in size):
    return forms.convolution(images, kernel, around)
  images, kernel = promotion.match_varying_axes(images, kernel)
  result: jax.Array = _OUT.bind(
    *(images[None], kernel[None]),
    pads=around,
    precision=jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
  )
  return result[0]


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


def _with_precision(form: Callable[..., Any]) -> Callable[..., Any]:
  """A form at the precision of JAX when the operation was traced."""

  def run(
    first: Any, second: Any, pads: forms.Pads, precision: str | None
  ) -> Any:
    with jax.default_matmul_precision(precision):
      return form(first, second, pads)

  return run


class _Operation(NamedTuple):
  """What an operation of two operands with a mapped axis of seeds does.

  Attributes:
    shape: Shape of the result, of those of the operands.
    order: From the shapes of both operands and the result, those of images,
      kernel and output.
    xla: The form on accelerators.
    on_cpu: The convolution on CPU.
    product: The form by products.
    is_convolution: Whether it is to be `on_cpu`, of the shapes in `order`.
  """

  shape: Callable[..., Any]
  order: Callable[..., Any]
  xla: Callable[..., Any]
  on_cpu: Callable[..., Any]
  product: Callable[..., Any]
  is_convolution: Callable[..., Any]

  def define(self, name: str) -> core.Primitive:
    """The operation of JAX with this end of its name."""
    primitive = primitives.define(
      f"stnjax_convolution_{name}",
      lambda *shapes, pads, precision: [self.shape(*shapes, pads)],
      options=("pads", "precision"),
    )
    for platform, form in (
      (None, self._elsewhere),
      ("cpu", self._cpu),
      ("cuda", self._gpu),
    ):
      lower = primitives.lowering(_with_precision(form))
      mlir.register_lowering(primitive, lower, platform=platform)
    return primitive

  def _cpu(self, first: jax.Array, second: jax.Array, pads: forms.Pads) -> Any:
    known = isinstance(first.shape[0], int)  # the number of seeds
    if not (known and self.is_convolution(*self._shapes(first, second, pads))):
      return _for_seeds(self.product, first, second, pads)
    if first.shape[0] == 1:
      return self.on_cpu(first[0], second[0], pads)[None]
    return lax.map(lambda pair: self.on_cpu(*pair, pads), (first, second))

  def _gpu(self, first: jax.Array, second: jax.Array, pads: forms.Pads) -> Any:
    images, kernel, _ = self._shapes(first, second, pads)
    form = self.product if _fits_gpu(images, kernel) else self.xla
    return _for_seeds(form, first, second, pads)

  def _elsewhere(
    self, first: jax.Array, second: jax.Array, pads: forms.Pads
  ) -> Any:
    return _for_seeds(self.xla, first, second, pads)

  def _shapes(
    self, first: jax.Array, second: jax.Array, pads: forms.Pads
  ) -> tuple[Any, Any, Any]:
    result = self.shape(first.shape, second.shape, pads)
    ordered: tuple[Any, Any, Any] = self.order(
      first.shape, second.shape, result
    )
    return ordered


def _for_seeds(
  form: Callable[..., Any],
  first: jax.Array,
  second: jax.Array,
  pads: forms.Pads,
) -> Any:
  return jax.vmap(functools.partial(form, pads=pads))(first, second)


_OUT = _Operation(
  shape=forms.out_shape,
  order=lambda images, kernel, out: (images, kernel, out),
  xla=forms.convolution,
  on_cpu=forms.convolution,
  product=forms.product,
  is_convolution=_by_convolution,
).define("out")
_IMAGE_GRADIENT = _Operation(
  shape=forms.image_shape,
  order=lambda kernel, out, images: (images, kernel, out),
  xla=functools.partial(forms.transposed_to_image, forms.convolution),
  on_cpu=forms.convolution_to_image,
  product=functools.partial(forms.transposed_to_image, forms.product),
  is_convolution=_image_by_convolution,
).define("image_gradient")
_KERNEL_GRADIENT = _Operation(
  shape=forms.kernel_shape,
  order=lambda images, out, kernel: (images, kernel, out),
  xla=functools.partial(forms.transposed_to_kernel, forms.convolution),
  on_cpu=forms.convolution_to_kernel,
  product=functools.partial(forms.transposed_to_kernel, forms.product),
  is_convolution=_by_convolution,
).define("kernel_gradient")


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
