"""The operations of sampling by other operations of JAX.

For platforms without a kernel of their own, and for further derivatives.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import promotion
from stnjax.sampling import padding as paddings
from stnjax.sampling import rounding
from stnjax.sampling.kernels import gather, tap_by_tap, taps


def padded(points, shape, *, method, padding, align_corners):
  """Coordinates along x, y(, z) as operations take them."""
  if method.pads_position:
    pad = paddings.apply_padding
  else:
    pad = functools.partial(paddings.near, support=method.support)
  return [
    pad(place, size, padding.along(axis), align_corners)
    for axis, (place, size) in enumerate(zip(points, shape[::-1], strict=True))
  ]


# The operations. Each takes images [..., (D,) H, W, C] and as many sets of
# points x, y(, z) [..., P], which are `padded`, NaN for a point that reads
# nothing. They are also traced while a program is lowered.


@promotion.usual
def read(image, *points, method, padding, align_corners):
  """`[..., P, C]`: the images at the points, in their dtype."""

  def of_image(image, *points):
    shape = image.shape[:-1]
    by_axis, defined = _taps(points, shape, method, padding, align_corners)
    values = rounding.cast(gather.blend(image, by_axis), image.dtype)
    return jnp.where(defined[:, None], values, 0)

  for _ in points[0].shape[:-1]:
    of_image = jax.vmap(of_image)
  return of_image(image, *points)


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
def slope(image, *operands, **options):
  """`[..., P, C]`: how the values change where the points move."""
  points, moves = halves(operands)
  of_points = functools.partial(read, image, **options)
  return jax.jvp(of_points, points, moves)[1]


def halves(operands):
  """The first half of an even number of operands, and the second."""
  half = len(operands) // 2
  return operands[:half], operands[half:]


@promotion.usual
def grad_coords(image, cotangent, *points, **options):
  """For each axis `[..., P]`: the adjoint of `slope`."""
  of_points = functools.partial(read, image, **options)
  return jax.vjp(of_points, *points)[1](cotangent)


@promotion.usual
def grad_image(values, *points, shape, **options):
  """`[..., *shape, C]`: the adjoint of `read` in the image."""

  def of_image(image):
    return read(image, *points, **options)

  return jax.vjp(of_image, _blank(values, points, shape))[1](values)[0]


def _blank(values, points, shape):
  """Zeros `[..., *shape, C]`, to be added to.

  They vary over devices where the values do: else what is added to them would
  be summed over those.
  """
  *batch, _, channels = values.shape
  image = jnp.zeros((*batch, *shape, channels), values.dtype)
  return promotion.match_varying_axes(image, values, *points)[0]


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
def grad_coords_on_cpu(image, cotangent, *points, method, **options):
  """`grad_coords`, without a copy of the image for each of many taps."""
  options["method"] = method
  floating = jnp.issubdtype(image.dtype, jnp.floating)
  many = method.support > tap_by_tap.MANY
  # The places of the taps are no less than an image of one channel.
  if not floating or not many or image.shape[-1] == 1:
    return grad_coords(image, cotangent, *points, **options)
  gradient = functools.partial(tap_by_tap.grad_coords, **options)
  for _ in points[0].shape[:-1]:
    gradient = jax.vmap(gradient)
  return gradient(image, cotangent, *points)


@promotion.usual
def grad_image_on_cpu(values, *points, shape, method, **options):
  """`grad_image`, without a copy of the image for each of many taps."""
  options["method"] = method
  if method.support <= tap_by_tap.MANY:
    return grad_image(values, *points, shape=shape, **options)
  add = functools.partial(tap_by_tap.grad_image, **options)
  for _ in points[0].shape[:-1]:
    add = jax.vmap(add)
  return add(_blank(values, points, shape), values, *points)
