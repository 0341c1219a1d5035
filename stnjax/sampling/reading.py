"""Reading an image by a method: batches, fill, mask and dtype."""

from collections.abc import Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from stnjax.sampling import grids, rounding
from stnjax.sampling import kernels as kernels_by_name
from stnjax.sampling import padding as paddings
from stnjax.sampling.kernels import Kernel
from stnjax.sampling.methods import LINEAR, Method
from stnjax.sampling.padding import ZEROS, Padding, PaddingPerAxis


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@functools.partial(
  jax.jit,
  static_argnames=(
    "method",
    "padding",
    "edge",
    "align_corners",
    "return_mask",
    "prefilter",
    "kernels",
  ),
)
def sample(
  image: jax.Array,
  points: jax.Array | grids.Mapped,
  fill: jax.Array,
  key: jax.Array | None,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  edge: str,
  align_corners: bool,
  return_mask: bool,
  prefilter: bool,
  kernels: tuple[Kernel, ...],
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Samples as `grid_sample` does, at pixel coordinates, unchecked.

  Args:
    image: `[..., *shape, C]`.
    points: `[..., *output_shape, N]` pixel coordinates.
    fill: `[]` or `[C]`; used where the padding takes a fill value.
    key: Random key for methods that take one, else None.
    method: The method.
    padding: How the image continues outside.
    edge: "blend", or "hard" where the padding fills.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    return_mask: Whether to return the in-bounds weight of each sample.
    prefilter: Whether the method prepares coefficients from the image.
    kernels: Kernels to choose from, preferred ones last.

  Returns:
    `[..., *output_shape, C]` in the dtype of `image`; with `return_mask` also
    `[..., *output_shape]`.
  """
  matrix = None
  if isinstance(points, grids.Mapped):
    # Where pixels are copied, the mask is that of the points, to the last bit.
    masked = return_mask or padding.takes_fill_value
    if points.is_affine and not (method.copies_pixels and masked):
      matrix = points.matrix
    points = points.points()
  axes = range(points.shape[-1])
  filled_axes = [axis for axis in axes if padding.along(axis).fills]
  read_padding = paddings.clamped(padding) if edge == "hard" else padding
  read = functools.partial(
    _read,
    fill=fill,
    padding=read_padding,
    align_corners=align_corners,
    kernels=kernels,
  )
  if method.prepare is not None:
    prepared = method.prepare(
      image, points, read_padding, align_corners, prefilter
    )
    result = read(*prepared, method=method)
  elif method.read is not None:
    result = method.read(image, points, key, read)
  else:
    # Else what is added to the result is rounded with it.
    rounds = edge == "hard" or not padding.takes_fill_value
    result = read(image, points, matrix, method=method, rounds=rounds)
  if edge == "hard":
    weight = functools.partial(_inside, points, image.shape)
    result = _placed(result, weight(filled_axes), fill, image.dtype)
  else:
    weight = functools.partial(
      _in_bounds_weight, points, image.shape, method=method, kernels=kernels
    )
    if padding.takes_fill_value and not method.copies_pixels:
      mask = reach = weight(filled_axes)
      if method.prepare is not None:
        # Coefficients of the fill reach far inside.
        reach = weight(filled_axes, method=LINEAR)
      result = result + _filled(mask, fill, reach)
  result = rounding.cast(result, image.dtype)
  return (result, weight(axes)) if return_mask else result


def _read(
  image: jax.Array,
  points: jax.Array,
  matrix: jax.Array | None = None,
  *,
  fill: jax.Array,
  method: Method,
  padding: Padding | PaddingPerAxis,
  **options: Any,
) -> jax.Array:
  """Reads images; where pixels are copied, the fill is in its place."""
  result = read_batch(
    image, points, matrix, method=method, padding=padding, **options
  )
  if not padding.takes_fill_value or not method.copies_pixels:
    return result
  axes = [a for a in range(points.shape[-1]) if padding.along(a).fills]
  mask = _in_bounds_weight(
    points, image.shape, axes, method=method, kernels=options["kernels"]
  )
  return _placed(result, mask, fill, image.dtype)


def read_batch(
  image: jax.Array,
  points: jax.Array,
  matrix: jax.Array | None = None,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  kernels: tuple[Kernel, ...],
  rounds: bool = False,
) -> jax.Array:
  """Reads images `[..., *shape, C]` by a kernel; batch axes broadcast."""
  num_axes = points.shape[-1]
  batch = jnp.broadcast_shapes(
    image.shape[: -num_axes - 1], points.shape[: -num_axes - 1]
  )
  known = [n for n in batch if isinstance(n, int)]  # others when exported
  sample_one = functools.partial(
    kernels_by_name.sample,
    kernels=kernels,
    batch=math.prod(known),
    method=method,
    padding=padding,
    align_corners=align_corners,
    rounds=rounds,
  )
  inside = ",".join("dhw"[-num_axes:])
  outside = ",".join("xyz"[:num_axes])
  operands, given = [image, points], f"({inside},c),({outside},n)"
  if matrix is not None:
    operands, given = [*operands, matrix], f"{given},(n,m)"
  sample_all = jnp.vectorize(sample_one, signature=f"{given}->({outside},c)")
  result: jax.Array = sample_all(*operands)
  return result


def _in_bounds_weight(
  points: jax.Array,
  image_shape: Sequence[int],
  axes: Sequence[int],
  *,
  method: Method,
  kernels: tuple[Kernel, ...],
) -> jax.Array:
  """Samples of an image of ones with zeros outside, `[..., *output_shape]`.

  Such an image is a product over the axes, and so is its sample. Only some
  `axes` of the points count, but a NaN coordinate is outside along any.
  """
  defined = ~jnp.isnan(points).any(axis=-1)
  result = defined.astype(points.dtype)
  for axis in axes:
    size, position = image_shape[-2 - axis], points[..., axis]
    ones, place = jnp.ones((size, 1), points.dtype), position[..., None]
    if method.prepare is not None:
      ones, place = method.prepare(ones, place, ZEROS, False, True)
    supported = [k for k in kernels if k.accepts(ones, place, method)]
    weight = kernels_by_name.sample(
      ones,
      place,
      kernels=tuple(supported) or kernels_by_name.candidates("auto"),
      method=method,
      padding=ZEROS,
      align_corners=False,
    )[..., 0]
    if method.prepare is None:
      # The weights of taps that are all inside may sum to 1 but for rounding.
      reach = max(0, method.support // 2 - 1)
      first, last = reach, size - 1 - reach
      inner = (position >= first) & (position <= last)
      weight = jnp.where(inner, 1, weight)
    result = result * weight
  return result


def _inside(
  points: jax.Array, image_shape: Sequence[int], axes: Sequence[int]
) -> jax.Array:
  """Whether points lie in the pixels of an image, 0 or 1, along some axes."""
  inside = ~jnp.isnan(points).any(axis=-1)
  for axis in axes:
    size, position = image_shape[-2 - axis], points[..., axis]
    inside &= (position >= -0.5) & (position <= size - 0.5)
  return inside.astype(points.dtype)


def _placed(
  result: jax.Array,
  mask: jax.Array,
  fill: jax.Array,
  dtype: jax.typing.DTypeLike,
) -> jax.Array:
  """The fill where the mask is 0; integers may be what floats cannot hold."""
  return jnp.where(
    mask[..., None] > 0,
    rounding.cast(result, dtype),
    rounding.cast(fill, dtype),
  )


def _filled(mask: jax.Array, fill: jax.Array, reach: jax.Array) -> jax.Array:
  """The part of a sample that is fill.

  Args:
    mask: `[...]`, the in-bounds weight of the sample.
    fill: `[]` or `[C]`.
    reach: `[...]`, below 1 where a fill that is not finite reaches.

  Returns:
    `[..., C]`, or `[..., 1]`. A fill that is not finite has no gradient, and
    gives none to the mask.
  """
  share = 1 - mask[..., None]
  finite = jnp.isfinite(fill)
  bad = jnp.sign(lax.stop_gradient(share)) * lax.stop_gradient(fill)
  bad = jnp.where(reach[..., None] == 1, 0, bad)
  return jnp.where(finite, share * jnp.where(finite, fill, 0), bad)
