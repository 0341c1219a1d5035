"""Classifiers with a spatial transformer.

A network is a list of blocks, dense layers and a head, and a placement that
says where the localisation net looks and what is warped, see
`placement.placements`. Poses accumulate, theta <- theta @ theta_i, and the
original is resampled each time, so that blur does not add up. Where a
convolution is deformed instead, nothing is resampled but what it reads.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax import alignability, checks, data, promotion, sampling, transforms
from stnjax.data import perturbations
from stnjax.nn import convolution, deformation
from stnjax.nn.localisation import LocalisationNet, sized_for
from stnjax.paper import classifiers
from stnjax.placement import placements
from stnjax.sampling import grids
from stnjax.sampling.warping import warp


class Output(NamedTuple):
  """What a network returns: the answer, and all that analysis needs."""

  logits: jax.Array
  """`[B, classes]`, or `[B, heads, classes]` where there are several."""
  thetas: tuple[jax.Array, ...]
  """The accumulated theta of each run of the transformer, `[B, 2, 3]` or
  `[B, 3, 3]`, in the normalised coordinates of what it warped."""
  pose: jax.Array
  """The whole transform, in the same shape and in the normalised coordinates of
  the input: the identity for a CNN; for features, that which moves the input as
  they were moved, the product over depths where there are several; for a
  deformed convolution the mean over places, see `deformation.mean_transform`,
  in `thetas` as well."""
  warped: jax.Array
  """`[B, h, w, C]`, the input resampled at `pose`: what the blocks see (before
  a batch norm), but for a network that warps features, where it shows what its
  transform would have made of the input, at the size of the input."""


class _Pass:
  """How images go through the layers: one at a time in training.

  Dropout hangs on each image's own key, so that it does not depend on how a
  batch is spread over devices. A layer that is passed twice drops anew.
  """

  def __init__(self, train: bool, keys: jax.Array | None):
    self.train = train
    self._keys = keys
    self._drops = 0

  def dropout(self, x: jax.Array, rate: float) -> jax.Array:
    if not self.train or not rate:
      return x
    if self._keys is None:
      raise ValueError("keys must be given to train a network with dropout")
    self._drops += 1
    keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, self._drops)
    kept = jax.vmap(
      lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:])
    )(keys)
    return jnp.where(kept, x / (1 - rate), 0)


class Block(nnx.Module):
  """Convolution, batch norm, max pooling, leaky ReLU, dropout."""

  def __init__(
    self,
    channels: int,
    layer: classifiers.Conv,
    *,
    slope: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    self.layer = layer
    self.slope = slope
    self.conv = nnx.Conv(
      channels,
      layer.filters,
      (layer.kernel_size, layer.kernel_size),
      padding=layer.padding,
      use_bias=not layer.batch_norm,  # the norm has its own
      kernel_init=getattr(nnx.initializers, init)(),
      rngs=rngs,
    )
    if layer.batch_norm:
      self.norm = nnx.BatchNorm(layer.filters, rngs=rngs)

  @promotion.usual
  def __call__(
    self,
    x: jax.Array,
    how: _Pass | None = None,
    points: jax.Array | None = None,
  ) -> jax.Array:
    """Passes `[B, H, W, C]` on; the convolution is deformed if given points."""
    how = how or _Pass(False, None)
    kernel = self.conv.kernel[...]
    if points is None:
      x = convolution.conv(x, kernel, self.layer.padding)
    else:
      x = deformation.deformed_conv(x, points, kernel)
    if self.layer.batch_norm:
      x = self.norm(x, use_running_average=not how.train)
    if self.layer.pool:
      x = convolution.max_pool(x, self.layer.pool)
    if not self.layer.batch_norm:
      # Last: the maximum is the same, the bias's gradient a shorter sum.
      x = x + self.conv.bias[...]
    return how.dropout(nnx.leaky_relu(x, self.slope), self.layer.dropout)


def _blocks(
  channels: int, classifier: classifiers.Classifier, rngs: nnx.Rngs
) -> list[Block]:
  blocks = []
  for layer in classifier.convs:
    blocks.append(
      Block(
        channels,
        layer,
        slope=classifier.slope,
        init=classifier.init,
        rngs=rngs,
      )
    )
    channels = layer.filters
  return blocks


class SpatialTransformerNetwork(nnx.Module):
  """Blocks and dense layers, with a spatial transformer at a placement."""

  def __init__(
    self,
    placement: placements.Placement,
    classifier: classifiers.Classifier,
    image_shape: Sequence[int],
    num_classes: int,
    *,
    heads: int = 1,
    family: str = "affine",
    localisation: str = "small",
    padding: str | None = None,
    batch_norm: bool = False,
    theta_gradient: float = 1.0,
    rngs: nnx.Rngs,
  ):
    """Makes the classifier, then the localisation nets.

    Args:
      placement: where the transformer goes.
      classifier: its layers and those of the localisation net.
      image_shape: `(H, W, C)`.
      num_classes: number of logits of each head.
      heads: answers per image, such as the digits of a house number.
      family: transform family of the localisation nets.
      localisation: size of the localisation net, of those that the classifier
        has.
      padding: of the transformer, one of `stnjax.sampling.UNFILLED`; the
        classifier's by default. What a deformed convolution reads outside is
        0, as for any convolution.
      batch_norm: whether a batch norm without parameters follows each
        transformer; that of a deformed convolution is on what it reads.
      theta_gradient: multiplies the gradient at theta, and with it that of all
        layers that theta depends on, shared ones too.
      rngs: keys for the initial values.

    Raises:
      ValueError: for a depth that the blocks do not have, an image too small
        for the blocks, or an unknown option.
    """
    checks.option("family", family, transforms.FAMILIES)
    checks.option("localisation", localisation, tuple(classifier.localisation))
    self.placement = placement
    self.padding = classifier.padding if padding is None else padding
    checks.option("padding", self.padding, sampling.UNFILLED)
    self.slope = classifier.slope
    self.dropout = classifier.dropout
    self.halve = classifier.halve
    self.theta_gradient = theta_gradient
    self.answer = (heads, num_classes) if heads > 1 else (num_classes,)
    self.blocks = nnx.List(_blocks(image_shape[-1], classifier, rngs))
    depths = sorted(set(placement.depths))
    deepest = len(self.blocks) - placement.deforms
    if depths and depths[-1] > deepest:
      raise ValueError(
        f"network: placement depth {depths[-1]} is deeper than the classifier;"
        f" accepted: 0 to {deepest}"
      )
    shapes = _shapes(self.blocks, image_shape)
    sizes = [math.prod(self._last_shape(shapes)), *classifier.dense]
    self.dense = nnx.List(
      [
        nnx.Linear(
          fan_in,
          fan_out,
          kernel_init=getattr(nnx.initializers, classifier.init)(),
          rngs=rngs,
        )
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
      ]
    )
    self.head = nnx.Linear(sizes[-1], heads * num_classes, rngs=rngs)
    # Keyed by depth: an iteration repeats a depth and shares its parts.
    self.copies = nnx.Dict()
    self.localisers = nnx.Dict()
    self.norms = nnx.Dict()
    for depth in depths:
      if placement.kind == "DL":
        own = _blocks(image_shape[-1], classifier, rngs)
        self.copies[str(depth)] = nnx.List(own[:depth])
      net = functools.partial(
        LocalisationNet,
        shapes[depth],
        sized_for(
          classifier.localisation[localisation], shapes[depth], image_shape
        ),
        family=family,
        slope=classifier.slope,
      )
      if placement.deforms:
        self.localisers[str(depth)] = deformation.PointPredictor(
          placement.kind,
          shapes[depth][-1],
          classifier.convs[depth],
          family=family,
          parameters=_num_parameters(net),
          slope=classifier.slope,
          rngs=rngs,
        )
      else:
        self.localisers[str(depth)] = net(rngs=rngs)
      if batch_norm:
        of_input = placement.kind in ("DL", "SL")
        warped = image_shape if of_input else shapes[depth]
        self.norms[str(depth)] = nnx.BatchNorm(
          warped[-1], use_bias=False, use_scale=False, rngs=rngs
        )

  @promotion.usual
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
  ) -> Output:
    """Classifies a batch of images.

    Args:
      images: `[B, H, W, C]`, normalised.
      train: whether batch norms use, and update, the statistics of the batch,
        and dropout drops.
      keys: `[B]`, one per image, for dropout.

    Returns:
      See `Output`.

    Raises:
      ValueError: for training with dropout and without keys.
    """
    how = _Pass(train, keys)
    if self.placement.kind == "C":
      x, thetas, pose = self._warp_features(images, how)
    elif self.placement.deforms:
      x, thetas, pose = self._deform(images, how)
    else:
      x, thetas, pose = self._warp_input(images, how)
    x = lax.collapse(x, 1)
    for layer in self.dense:
      x = how.dropout(nnx.leaky_relu(layer(x), self.slope), self.dropout)
    logits = self.head(x).reshape(len(images), *self.answer)
    if pose is None:
      pose = jnp.broadcast_to(transforms.identity(), (len(images), 2, 3))
    shape = images.shape[1:3]
    if self.halve and self.placement.warps_input:
      shape = _halved(shape)
    warped = warp(images, pose, output_shape=shape, padding=self.padding)
    return Output(logits, tuple(thetas), pose, warped)

  @promotion.usual
  def features(self, images: jax.Array) -> dict[str, jax.Array]:
    """What each block makes of images that no transformer touches.

    Batch norms behind transformers, and deformed convolutions, are blocks' too.

    Args:
      images: `[B, H, W, C]`, normalised, of any size.

    Returns:
      By block, "block 1" and so on, `[B, h, w, F]`.
    """
    found, x, how = {}, images, _Pass(False, None)
    depths = self.placement.depths
    of_features = () if self.placement.warps_input else depths
    if self.placement.warps_input:
      x = self._normalise(depths[-1], x, how)
    for depth, block in enumerate(self.blocks):
      points = None
      if depth in of_features:
        if self.placement.deforms:
          points = self._predict(depth, x)
        x = self._normalise(depth, x, how)
      x = block(x, how, points)
      found[f"block {depth + 1}"] = x
    return found

  def geometry(self) -> dict[str, alignability.Geometry]:
    """Where the `features` of each block lie in the image.

    What a deformed convolution reads elsewhere is not in it.
    """
    layers = [block.layer for block in self.blocks]
    return {
      f"block {depth}": receptive_fields(layers[:depth])
      for depth in range(1, len(layers) + 1)
    }

  def _warp_input(self, images, how):
    """DL, SL, and no transformer at all: the input is what is warped."""
    x, theta, thetas = images, None, []
    for left, depth in _countdown(self.placement.depths):
      if self.placement.kind == "DL":
        looking_through = self.copies[str(depth)]
      else:
        looking_through = self.blocks[:depth]
      features = _through(looking_through, x, how)
      theta = self._localise(depth, features, theta)
      x = self._transform(depth, images, theta, how, last=not left)
      thetas.append(theta)
    return _through(self.blocks, x, how), thetas, theta

  def _warp_features(self, images, how):
    """C: the features are warped on their way, once per depth."""
    x, thetas, done, pose = images, [], 0, None
    left = len(self.placement.depths)
    for depth, repeats in itertools.groupby(self.placement.depths):
      x = original = _through(self.blocks[done:depth], x, how)
      theta, done = None, depth
      for _ in repeats:
        left -= 1
        theta = self._localise(depth, x, theta)
        x = self._transform(depth, original, theta, how, last=not left)
        thetas.append(theta)
      layers = [block.layer for block in self.blocks[:depth]]
      frame = input_from_features(layers, original.shape[1:], images.shape[1:])
      seen = _seen_through(frame, theta)
      pose = seen if pose is None else transforms.compose(pose, seen)
    return _through(self.blocks[done:], x, how), thetas, pose

  def _deform(self, images, how):
    """UCN, DEF: a convolution reads its features elsewhere at each place."""
    (depth,) = self.placement.depths
    features = _through(self.blocks[:depth], images, how)
    points = self._predict(depth, features)
    read = self._normalise(depth, features, how)
    x = self.blocks[depth](read, how, points)
    regular = self.localisers[str(depth)].regular(features.shape[1:3])
    theta, pose = (
      deformation.mean_transform(points, regular, seen.shape[1:3])
      for seen in (features, images)
    )
    return _through(self.blocks[depth + 1 :], x, how), [theta], pose

  def _localise(self, depth, features, theta):
    """The pose so far, times what the localisation net sees left to do."""
    step = self._predict(depth, features)
    return step if theta is None else transforms.compose(theta, step)

  def _predict(self, depth, features):
    """What the localiser of a depth returns, its gradient scaled."""
    predicted = self.localisers[str(depth)](features)
    if self.theta_gradient == 1:
      return predicted
    fixed = lax.stop_gradient(predicted)
    return fixed + self.theta_gradient * (predicted - fixed)

  def _transform(self, depth, original, theta, how, last):
    features = self.placement.kind == "C" and depth > 0
    shape = original.shape[1:3]
    shape = _halved(shape) if self.halve and last else shape
    if features and self.padding == "border":
      warped = _warp_small(original, theta, shape)
    else:
      warped = warp(original, theta, output_shape=shape, padding=self.padding)
    return self._normalise(depth, warped, how)

  def _normalise(self, depth, warped, how):
    if str(depth) not in self.norms:
      return warped
    norm = self.norms[str(depth)]
    return norm(warped, use_running_average=not how.train)

  def _last_shape(self, shapes):
    """Shape of one image behind all blocks, whatever the transformer halves."""
    resamples = self.placement.depths and not self.placement.deforms
    if not self.halve or not resamples:
      return shapes[-1]
    depth = self.placement.depths[-1] if self.placement.kind == "C" else 0
    height_and_width = _halved(shapes[depth][:2])
    start = (*height_and_width, shapes[depth][-1])
    return _shapes(self.blocks[depth:], start)[-1]


@promotion.usual
def create(
  name: str,
  dataset: str = "mnist",
  perturbation: str = "none",
  *,
  width: float = 1.0,
  localisation_width: float = 1.0,
  dropout: bool = True,
  shrink: int = 1,
  rngs: nnx.Rngs,
  **options: Any,
) -> SpatialTransformerNetwork:
  """Makes a network of the paper by its name.

  Args:
    name: such as "CNN", "STN-C1", "STN-SL1x2" or "DEF1"; see
      `stnjax.placement`.
    dataset: one of `stnjax.data.SETS`: decides the classifier.
    perturbation: one of `data.perturbations.PERTURBATIONS`: decides the size
      of the image, and MNIST's localisation nets.
    width: multiplies the filters and hidden units of the classifier.
    localisation_width: multiplies those of the localisation nets.
    dropout: whether the classifier has that of the paper.
    shrink: whole factor by which its images are smaller; a transformer then
      keeps their size, where it would halve whole ones (shifted MNIST).
    rngs: keys for the initial values, `nnx.Rngs(seed)`.
    **options: see `SpatialTransformerNetwork`.

  Raises:
    ValueError: for an unknown name or option, naming what is accepted.

  >>> network = create("STN-SL1", width=0.25, rngs=nnx.Rngs(0))
  >>> network(jnp.zeros((2, 28, 28, 1))).logits.shape
  (2, 10)
  """
  checks.whole("shrink", shrink, 1)
  classifier = classifiers.find(dataset, perturbation)
  if shrink > 1:  # the images are what a transformer would make them
    classifier = dataclasses.replace(classifier, halve=False)
  description = data.SETS[dataset]
  rows, columns, channels = perturbations.output_shape(
    perturbation, description.image_shape
  )
  return SpatialTransformerNetwork(
    placements.parse(name),
    classifier.resized(width, localisation_width, dropout),
    (rows // shrink, columns // shrink, channels),
    description.num_classes,
    heads=description.heads,
    rngs=rngs,
    **options,
  )


def count_parameters(network: nnx.Module) -> dict[str, int]:
  """Counts the learnable parameters of a network.

  Returns:
    "classifier" (blocks and head), "localisation" (nets and copied blocks)
    and "total".
  """
  counts = {"classifier": 0, "localisation": 0}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    own = placements.part(path, network.placement) == "localisation"
    counts["localisation" if own else "classifier"] += leaf.get_value().size
  return {**counts, "total": sum(counts.values())}


def receptive_fields(
  layers: Sequence[classifiers.Conv],
) -> alignability.Geometry:
  """Where the features behind some layers lie in the image, and what they see.

  Args:
    layers: that the features come from; none for the image itself.
  """
  first, step, reach = 0.0, 1.0, 0.0
  for layer in layers:
    half = (layer.kernel_size - 1) / 2
    padded = int(half) if layer.padding == "SAME" else 0
    first += step * (half - padded)
    reach += step * half
    if layer.pool:
      half = (layer.pool - 1) / 2
      first += step * half
      reach += step * half
      step *= 2
  return alignability.Geometry((first,) * 2, (step,) * 2, (reach,) * 2)


def _num_parameters(make: Callable[..., nnx.Module]) -> int:
  """How many parameters a module would have, without making it."""
  params = nnx.state(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))), nnx.Param)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@promotion.usual
def input_from_features(
  layers: Sequence[classifiers.Conv],
  shape: Sequence[int],
  image_shape: Sequence[int],
) -> jax.Array:
  """Where features lie in the image.

  Convolutions that are not padded leave out what is at the border, so that a
  feature map spans less than the image: a shift of its width is a smaller one
  of the image's.

  Args:
    layers: that the features come from.
    shape: `(H, W, ...)` of the features.
    image_shape: `(H, W, ...)` of the image.

  Returns:
    `[2, 3]`, from normalised coordinates of the features to those of the image.
  """
  (first, _), (step, _), _ = receptive_fields(layers)
  sizes = [(shape[i], image_shape[i]) for i in (1, 0)]
  scales = [step * size / whole for size, whole in sizes]
  shifts = [
    (2 * first + step * (size - 1) + 1) / whole - 1 for size, whole in sizes
  ]
  return jnp.array([[scales[0], 0, shifts[0]], [0, scales[1], shifts[1]]])


def _seen_through(frame: jax.Array, theta: jax.Array) -> jax.Array:
  """A transform in other coordinates, `frame theta frame^-1`.

  Of what theta does besides the identity, so that this stays exact.
  """
  identity = jnp.eye(3)
  moved = transforms.to_homogeneous(theta) - identity
  there, back = (
    transforms.to_homogeneous(m) for m in (frame, transforms.invert(frame))
  )
  product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  seen = identity + product(product(there, moved), back)
  return seen[..., : theta.shape[-2], :]


def _warp_small(
  features: jax.Array, theta: jax.Array, shape: Sequence[int]
) -> jax.Array:
  """`warp` with border padding, with a gradient at the edge pixels' centres.

  There, where the identity samples, "border" clamps and has none. Deep feature
  maps can be 2 x 2, all edge: their transformer would never leave the identity.
  The same border made of pixels gives the right-hand derivative, as inside.
  """
  points = grids.affine_pixel_grid(theta, features.shape[1:3], shape) + 1
  framed = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  return sampling.sample_pixels(
    framed, points, method="linear", padding="border"
  )


def _halved(shape: Sequence[int]) -> tuple[int, ...]:
  return tuple(max(1, size // 2) for size in shape)


def _countdown(depths: Sequence[int]) -> Iterator[tuple[int, int]]:
  """Each depth, after how many of them are left behind it."""
  return zip(reversed(range(len(depths))), depths, strict=True)


def _through(
  blocks: Sequence[nnx.Module], x: jax.Array, how: _Pass
) -> jax.Array:
  for block in blocks:
    x = block(x, how)
  return x


def _shapes(
  blocks: Sequence[nnx.Module], image_shape: Sequence[int]
) -> list[tuple[int, ...]]:
  """Shape of one image before the first block and after each."""
  shapes = [tuple(image_shape)]
  for block in [*blocks, None]:
    if 0 in shapes[-1]:
      raise ValueError(
        f"image_shape {shapes[0]} is too small for the classifier; take larger"
        " images, or a smaller shrink"
      )
    if block:
      x = jax.ShapeDtypeStruct((1, *shapes[-1]), jnp.float32)
      shapes.append(jax.eval_shape(block, x).shape[1:])
  return shapes
