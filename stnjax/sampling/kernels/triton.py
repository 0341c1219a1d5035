"""Sampling and its derivatives as Triton kernels, for NVIDIA GPUs.

A program of a kernel works out the taps of a block of points once, and then
visits their channels. `read` and `grad_coords` do what the operations of the
same name do; they have no derivatives and no rule for batches, see
`operations`. The gradient of an image is XLA's scatter, which adds in one order
where XLA is told to.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
import jax.numpy as jnp

from stnjax.sampling.kernels import gather, taps
from stnjax.sampling.kernels.taps import Tap
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding

_MAX_CHANNELS = 64  # that a program visits at once
_NUMBERS = 512  # of a block: points times channels that are visited at once
_WARPS = 4  # of 32 threads, of a program


def supports(*arrays: jax.Array) -> bool:
  """Whether the kernels run on the GPU that is there, and count in 32 bits.

  Args:
    *arrays: All operands and results.
  """
  return _has_gpu() and all(array.size < 2**31 for array in arrays)


@functools.cache
def _has_gpu() -> bool:
  """Whether there is a GPU that Triton compiles for, Ampere or newer.

  Pallas asks it for its kind, also where it compiles ahead of time.
  """
  try:
    devices = jax.local_devices(backend="cuda")
  except RuntimeError:
    return False
  return all(float(device.compute_capability) >= 8 for device in devices)


def read(
  image: jax.Array,
  *points: jax.Array,
  method: Method,
  padding: Padding,
  align_corners: bool,
) -> jax.Array:
  """Reads images at points.

  Args:
    image: `[..., (D,) H, W, C]`.
    *points: `[..., P]` coordinates x, y(, z) in pixels, padded.
    method: A method.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    `[..., P, C]`, 0 where a coordinate is NaN.
  """
  block = _Block(image.shape, points, method, padding, align_corners)

  def kernel(image_ref, *refs):
    *point_refs, values_ref = refs
    place = block.place(point_refs)
    corners = list(gather.corners(place.by_axis))
    for channels in block.channels():
      values = jnp.zeros((block.size, channels.index.size), image.dtype)
      for tap in corners:
        at, there = block.pixels(place, tap, channels)
        pixels = pltriton.load(image_ref.at[at], mask=there, other=0)
        values += pixels if tap.weight is None else tap.weight[:, None] * pixels
      at, there = block.values(place, channels)
      pltriton.store(values_ref.at[at], values, mask=there)

  count = points[0].size * image.shape[-1]
  (values,) = block.call(kernel, [image, *points], [count], image.dtype)
  return values.reshape(*points[0].shape, image.shape[-1])


def grad_coords(
  image: jax.Array,
  cotangent: jax.Array,
  *points: jax.Array,
  method: Method,
  padding: Padding,
  align_corners: bool,
) -> list[jax.Array]:
  """The gradient of `read` with respect to the points.

  Args:
    image: As for `read`.
    cotangent: `[..., P, C]`, of the values.
    *points: As for `read`.
    method: As for `read`, with weights.
    padding: As for `read`.
    align_corners: As for `read`.

  Returns:
    `[..., P]` for each coordinate.
  """
  block = _Block(image.shape, points, method, padding, align_corners)

  def kernel(image_ref, cotangent_ref, *refs):
    place = block.place(refs[: len(points)])
    corners = list(gather.corners(place.by_axis))
    products = [jnp.zeros(block.size, image.dtype) for _ in corners]
    for channels in block.channels():
      at, there = block.values(place, channels)
      change = pltriton.load(cotangent_ref.at[at], mask=there, other=0)
      for k, tap in enumerate(corners):
        at, there = block.pixels(place, tap, channels)
        pixels = pltriton.load(image_ref.at[at], mask=there, other=0)
        products[k] += (pixels * change).sum(axis=1)
    for axis, to_ref in enumerate(refs[len(points) :]):
      steep = [*place.by_axis]
      steep[axis] = block.slopes(place, axis)
      slope = jnp.zeros(block.size, image.dtype)
      for product, tap in zip(products, gather.corners(steep), strict=True):
        slope += product * tap.weight
      pltriton.store(to_ref.at[place.index], slope, mask=place.exists)

  counts = [point.size for point in points]
  slopes = block.call(kernel, [image, cotangent, *points], counts, image.dtype)
  return [slope.reshape(points[0].shape) for slope in slopes]


class _Channels(NamedTuple):
  """Channels that are visited at once."""

  index: jax.Array  # [size], may go beyond the last one
  exist: jax.Array  # [size], whether there is such a channel


class _Place(NamedTuple):
  """Where a program's points lie."""

  image: jax.Array  # which image of the batch they read
  index: jax.Array  # [size], which points of all they are
  exists: jax.Array  # [size], whether there is such a point
  defined: jax.Array  # [size], whether it reads at all
  positions: list[jax.Array]  # [size], along x, y(, z)
  by_axis: list[list[Tap]]  # the taps along x, y(, z)


class _Block:
  """A block of points, the work of one program of a kernel."""

  def __init__(
    self,
    image_shape: Sequence[int],
    points: Sequence[jax.Array],
    method: Method,
    padding: Padding,
    align_corners: bool,
  ):
    self._points = points[0].shape[-1]
    self._batch = math.prod(points[0].shape[:-1])
    self._shape = image_shape[-1 - len(points) : -1]
    self._channels = image_shape[-1]
    self._axes = [
      (size, method, padding.along(axis), align_corners)
      for axis, size in enumerate(self._shape[::-1])
    ]
    self._wide = min(pl.next_power_of_2(self._channels), _MAX_CHANNELS)
    most = pl.next_power_of_2(self._points)
    self.size = min(max(_NUMBERS // self._wide, 16), most)
    self._blocks = pl.cdiv(self._points, self.size)

  def call(
    self,
    kernel: Callable[..., None],
    operands: Sequence[jax.Array],
    counts: Sequence[int],
    dtype: jnp.dtype,
  ) -> list[jax.Array]:
    """Runs a kernel on flat operands, to flat results with `counts` numbers.

    Where there is nothing to read, they are 0.
    """
    if not all([*counts, *(operand.size for operand in operands)]):
      return [jnp.zeros(count, dtype) for count in counts]
    return pl.pallas_call(
      kernel,
      grid=(self._batch * self._blocks,),
      out_shape=[jax.ShapeDtypeStruct((count,), dtype) for count in counts],
      compiler_params=pltriton.CompilerParams(num_warps=_WARPS),
      interpret=_interpreted(),
      name=f"stnjax_{kernel.__qualname__.split('.')[0]}",
    )(*(operand.ravel() for operand in operands))

  def place(self, point_refs: Sequence) -> _Place:
    """Works out the taps of the program's points."""
    program = pl.program_id(0)
    image = program // self._blocks
    within = program % self._blocks * self.size + jnp.arange(self.size)
    exists = within < self._points
    index = image * self._points + within
    positions = [
      pltriton.load(ref.at[index], mask=exists, other=jnp.nan)
      for ref in point_refs
    ]
    undefined = functools.reduce(jnp.logical_or, map(_is_nan, positions))
    positions = [jnp.where(undefined, 0, position) for position in positions]
    by_axis = [
      taps.around(position, *along)
      for position, along in zip(positions, self._axes, strict=True)
    ]
    return _Place(image, index, exists, ~undefined, positions, by_axis)

  def slopes(self, place: _Place, axis: int) -> list[Tap]:
    """The taps along an axis, with the derivatives of their weights."""
    slopes = taps.slopes(place.positions[axis], *self._axes[axis])
    return [
      tap._replace(weight=slope)
      for tap, slope in zip(place.by_axis[axis], slopes, strict=True)
    ]

  def channels(self) -> Iterator[_Channels]:
    """Visits all channels, some at once."""
    for start in range(0, self._channels, self._wide):
      index = start + jnp.arange(self._wide)
      yield _Channels(index, index < self._channels)

  def pixels(self, place: _Place, tap: Tap, channels: _Channels):
    """Where the pixels of a tap lie, and whether they are there."""
    first = place.image * math.prod(self._shape)
    pixel = first + gather.flat_index(tap.index, self._shape)
    present = place.defined & tap.inside
    return self._numbers(pixel, present, channels)

  def values(self, place: _Place, channels: _Channels):
    """Where the values of the points lie, and whether they are there."""
    return self._numbers(place.index, place.exists, channels)

  def _numbers(self, row, present, channels):
    at = row[:, None] * self._channels + channels.index[None]
    return at, present[:, None] & channels.exist[None]


def _is_nan(position: jax.Array) -> jax.Array:
  return position != position  # Triton has no other test


def _interpreted() -> bool:
  """Whether kernels are interpreted, on any platform, by operations of JAX."""
  return jax.default_backend() == "cpu"
