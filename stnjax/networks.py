"""Classifiers, and where the spatial transformer goes in them.

A network is a list of blocks and a head, and a placement that says where the
localisation net looks and what is warped (Finnveden et al. 2020):

  name      localisation sees                    what is warped
  CNN       -                                    nothing
  STN-C0    the input                            the input
  STN-CX    the features after block X           those features
  STN-DLX   its own copy of blocks 1..X          the input
  STN-SLX   the classifier's own blocks 1..X     the input

"STN-SL0,1" has several placements, run in order; "STN-SL1x2" repeats one,
with one localisation net. Poses accumulate, theta <- theta @ theta_i, and the
original is resampled each time, so that blur does not add up.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math
import re
from typing import NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax import checks, convolution, grids, sampling, transforms
from stnjax.localisation import LocalisationNet, matched_widths
from stnjax.warping import warp


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the spatial transformer goes.

  Attributes:
    kind: "CNN", "C" (warps features), "DL" (own copy of the layers) or "SL"
      (shared layers).
    depths: how many blocks the localisation net looks through, one entry per
      run of the transformer, in order.
  """

  kind: str
  depths: tuple[int, ...]


def parse_placement(name: str) -> Placement:
  """Reads the name of a network.

  Args:
    name: "CNN", or "STN-" with "C", "DL" or "SL" and depths, such as
      "STN-C1", "STN-SL0,1" or "STN-DL1x2".

  Returns:
    The placement; repeats are written out: "STN-SL1x2" has depths (1, 1).

  Raises:
    ValueError: for any other name, or depths of "C" that go back.
  """
  if name == "CNN":
    return Placement("CNN", ())
  match = re.fullmatch(
    r"STN-(C|DL|SL)(\d+(?:x[1-9]\d*)?(?:,\d+(?:x[1-9]\d*)?)*)", name
  )
  if not match:
    raise ValueError(
      f"network={name!r} is unknown; accepted: CNN, or STN-C, STN-DL, STN-SL"
      " followed by depths, such as STN-C1, STN-SL0,1 or STN-SL1x2"
    )
  depths: list[int] = []
  for entry in match[2].split(","):
    depth, _, repeats = entry.partition("x")
    depths += [int(depth)] * int(repeats or 1)
  if match[1] == "C" and depths != sorted(depths):
    raise ValueError(
      f"network={name!r}: the depths of STN-C must not decrease, as features"
      " pass through the blocks once"
    )
  return Placement(match[1], tuple(depths))


class Output(NamedTuple):
  """What a network returns: the answer, and all that analysis needs."""

  logits: jax.Array
  """`[B, classes]`."""
  thetas: tuple[jax.Array, ...]
  """The accumulated theta of each run of the transformer, `[B, 2, 3]` or
  `[B, 3, 3]`, in the normalised coordinates of what it warped."""
  pose: jax.Array
  """The whole transform, in the same shape: the identity for a CNN; for
  features warped at several depths, the product over depths."""
  warped: jax.Array
  """`[B, H, W, C]`, the input resampled at `pose`: what the blocks see (before
  a batch norm), but for a network that warps features, where it shows what its
  transform would have made of the input."""


class Block(nnx.Module):
  """Convolution without padding, max pooling by 2, ReLU."""

  def __init__(
    self, channels: int, filters: int, kernel_size: int, *, rngs: nnx.Rngs
  ):
    self.conv = nnx.Conv(
      channels,
      filters,
      (kernel_size, kernel_size),
      padding="VALID",
      conv_general_dilated=convolution.conv_general_dilated,
      rngs=rngs,
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return nnx.relu(convolution.max_pool(self.conv(x), 2))


def mnist_blocks(
  channels: int, *, filters: Sequence[int] = (64, 64), rngs: nnx.Rngs
) -> list[Block]:
  """The blocks of the paper's MNIST classifier: conv9, conv7, pools and ReLUs.

  Args:
    channels: of the input.
    filters: of the two convolutions; 64 and 64 in the paper.
    rngs: keys for the initial values.

  Raises:
    ValueError: unless `filters` are two positive numbers.
  """
  if len(filters) != 2 or min(filters) < 1:
    raise ValueError(
      f"filters must be two positive numbers for the MNIST classifier,"
      f" got {tuple(filters)}"
    )
  first, second = filters
  return [
    Block(channels, first, 9, rngs=rngs),
    Block(first, second, 7, rngs=rngs),
  ]


class SpatialTransformerNetwork(nnx.Module):
  """Blocks and a head, with a spatial transformer at a placement."""

  def __init__(
    self,
    placement: Placement,
    make_blocks: Callable[[], Sequence[nnx.Module]],
    image_shape: Sequence[int],
    num_classes: int,
    *,
    family: str = "affine",
    localisation_widths: Sequence[int] = (32, 32, 32),
    padding: str = "border",
    batch_norm: bool = False,
    rngs: nnx.Rngs,
  ):
    """Makes the classifier, then the localisation nets.

    Args:
      placement: where the transformer goes.
      make_blocks: makes a new list of blocks, each `[B, ...] -> [B, ...]`;
        called once for the classifier and once more for each copy of DL.
      image_shape: `(H, W, C)`.
      num_classes: number of logits.
      family: transform family of the localisation nets.
      localisation_widths: hidden widths of a localisation net that sees the
        input; the first is matched for others, see
        `stnjax.localisation.matched_widths`.
      padding: of the transformer, one of `stnjax.sampling.UNFILLED`.
      batch_norm: whether a batch norm without parameters follows each
        transformer.
      rngs: keys for the initial values.

    Raises:
      ValueError: for a depth that the blocks do not have, an image too small
        for the blocks, or an unknown option.
    """
    checks.option("family", family, transforms.FAMILIES)
    self.placement = placement
    self.padding = padding
    self.blocks = nnx.List(make_blocks())
    shapes = _shapes(self.blocks, image_shape)
    depths = sorted(set(placement.depths))
    if depths and depths[-1] > len(self.blocks):
      raise ValueError(
        f"network: placement depth {depths[-1]} is deeper than the classifier;"
        f" accepted: 0 to {len(self.blocks)}"
      )
    self.head = nnx.Linear(math.prod(shapes[-1]), num_classes, rngs=rngs)
    # Keyed by depth: an iteration repeats a depth and shares its parts.
    self.copies = nnx.Dict()
    self.localisers = nnx.Dict()
    self.norms = nnx.Dict()
    for depth in depths:
      if placement.kind == "DL":
        self.copies[str(depth)] = nnx.List(make_blocks()[:depth])
      num_features = math.prod(shapes[depth])
      self.localisers[str(depth)] = LocalisationNet(
        num_features,
        widths=matched_widths(
          localisation_widths, num_features, math.prod(image_shape)
        ),
        family=family,
        rngs=rngs,
      )
      if batch_norm:
        warped = shapes[depth] if placement.kind == "C" else image_shape
        self.norms[str(depth)] = nnx.BatchNorm(
          warped[-1], use_bias=False, use_scale=False, rngs=rngs
        )

  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies a batch of images.

    Args:
      images: `[B, H, W, C]`, normalised.
      train: whether batch norms use, and update, the statistics of the batch.

    Returns:
      See `Output`.
    """
    if self.placement.kind == "C":
      features, thetas, pose = self._warp_features(images, train)
    else:
      features, thetas, pose = self._warp_input(images, train)
    if pose is None:
      pose = jnp.broadcast_to(transforms.identity(), (len(images), 2, 3))
    logits = self.head(lax.collapse(features, 1))
    warped = warp(images, pose, padding=self.padding)
    return Output(logits, tuple(thetas), pose, warped)

  def _warp_input(self, images, train):
    """DL, SL, and no transformer at all: the input is what is warped."""
    x, theta, thetas = images, None, []
    for depth in self.placement.depths:
      if self.placement.kind == "DL":
        looking_through = self.copies[str(depth)]
      else:
        looking_through = self.blocks[:depth]
      features = _through(looking_through, x)
      theta = self._localise(depth, features, theta)
      x = self._transform(depth, images, theta, train)
      thetas.append(theta)
    return _through(self.blocks, x), thetas, theta

  def _warp_features(self, images, train):
    """C: the features are warped on their way, once per depth."""
    x, thetas, done, pose = images, [], 0, None
    for depth, repeats in itertools.groupby(self.placement.depths):
      x = original = _through(self.blocks[done:depth], x)
      theta = None
      for _ in repeats:
        theta = self._localise(depth, x, theta)
        x = self._transform(depth, original, theta, train)
        thetas.append(theta)
      pose = theta if pose is None else transforms.compose(pose, theta)
      done = depth
    return _through(self.blocks[done:], x), thetas, pose

  def _localise(self, depth, features, theta):
    """The pose so far, times what the localisation net sees left to do."""
    step = self.localisers[str(depth)](features)
    return step if theta is None else transforms.compose(theta, step)

  def _transform(self, depth, original, theta, train):
    features = self.placement.kind == "C" and depth > 0
    if features and self.padding == "border":
      warped = _warp_small(original, theta)
    else:
      warped = warp(original, theta, padding=self.padding)
    if str(depth) in self.norms:
      warped = self.norms[str(depth)](warped, use_running_average=not train)
    return warped


def create(
  name: str,
  image_shape: Sequence[int] = (28, 28, 1),
  num_classes: int = 10,
  *,
  filters: Sequence[int] = (64, 64),
  family: str = "affine",
  localisation_widths: Sequence[int] = (32, 32, 32),
  padding: str = "border",
  batch_norm: bool = False,
  rngs: nnx.Rngs,
) -> SpatialTransformerNetwork:
  """Makes a network of the paper for MNIST by its name.

  Args:
    name: such as "CNN", "STN-C1" or "STN-SL1x2"; see `parse_placement`.
    image_shape: `(H, W, C)`.
    num_classes: number of logits.
    filters: of the classifier's two convolutions.
    family: see `SpatialTransformerNetwork`, as are the rest.
    localisation_widths: hidden widths of the localisation net.
    padding: of the transformer.
    batch_norm: whether a batch norm without parameters follows it.
    rngs: keys for the initial values, `nnx.Rngs(seed)`.

  Raises:
    ValueError: for an unknown name or option, naming what is accepted.

  >>> network = create("STN-SL1", filters=(16, 16), rngs=nnx.Rngs(0))
  >>> network(jnp.zeros((2, 28, 28, 1))).logits.shape
  (2, 10)
  """
  return SpatialTransformerNetwork(
    parse_placement(name),
    lambda: mnist_blocks(image_shape[-1], filters=filters, rngs=rngs),
    image_shape,
    num_classes,
    family=family,
    localisation_widths=localisation_widths,
    padding=padding,
    batch_norm=batch_norm,
    rngs=rngs,
  )


def count_parameters(network: nnx.Module) -> dict[str, int]:
  """Counts the learnable parameters of a network.

  Returns:
    "classifier" (blocks and head), "localisation" (nets and copied blocks)
    and "total".
  """
  counts = {"classifier": 0, "localisation": 0}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    part = "localisation" if is_localisation(path) else "classifier"
    counts[part] += leaf[...].size
  return {**counts, "total": sum(counts.values())}


def is_localisation(path: Sequence[str]) -> bool:
  """Whether a parameter's path is in a part that only localisation uses."""
  return path[0] in ("localisers", "copies")


def _warp_small(features: jax.Array, theta: jax.Array) -> jax.Array:
  """`warp` with border padding, with a gradient at the edge pixels' centres.

  There, where the identity samples, "border" clamps and has none. Deep feature
  maps can be 2 x 2, all edge: their transformer would never leave the identity.
  The same border made of pixels gives the right-hand derivative, as inside.
  """
  shape = features.shape[1:3]
  points = grids.affine_pixel_grid(theta, shape, shape) + 1
  framed = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  return sampling.sample_pixels(
    framed, points, method="linear", padding="border"
  )


def _through(blocks: Sequence[nnx.Module], x: jax.Array) -> jax.Array:
  for block in blocks:
    x = block(x)
  return x


def _shapes(
  blocks: Sequence[nnx.Module], image_shape: Sequence[int]
) -> list[tuple[int, ...]]:
  """Shape of one image before the first block and after each."""
  shapes = [tuple(image_shape)]
  for block in blocks:
    x = jax.ShapeDtypeStruct((1, *shapes[-1]), jnp.float32)
    shapes.append(jax.eval_shape(block, x).shape[1:])
  if 0 in shapes[-1]:
    raise ValueError(f"image_shape {shapes[0]} is too small for the classifier")
  return shapes
