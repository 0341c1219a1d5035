"""A task on which the depth of localisation can matter: ours, not the paper's.

Every image shows one to three digits, each in a broken ring, all of one
distribution of sizes, drawn lighter or darker than the ground. The label is
that of the digit whose ring is open at the top. It may be anywhere, distractors
have as much ink, and the polarity is random: a linear reader cannot infer its
position from pixels. Once it is found, the digit is easy to read.
`experiments.gates` measures what the task asks of a network before any
transformer is trained.

Importing this module registers the perturbation "ringed_digits", with its
"ringed_digits_undone", and the backbone "ring_reader".
"""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax import data, nn, transforms
from stnjax.data import Perturbation
from stnjax.placement import BACKBONES, Backbone, ConvBlock, DenseHead, Task
from stnjax.placement.blocks import check_factors, scaled
from stnjax.placement.plain import geometry
from stnjax.sampling import warp

SIDE = 48  # of the image, in pixels
MOST_DIGITS = 3
NORMALISATION = (0.5,), (0.2,)  # the ground is 0.5: zero padding continues it

_DIGIT_SCALE = 0.5  # of MNIST's images of 28 px, whose digits have 20 px
_RADIUS = 8.5  # of a ring, in pixels
_REACH = 13.0  # of places about the image's centre, in pixels
_CANDIDATES = 24  # places that are tried for a distractor
_OCTAVES = 0.2  # bound of the logarithm of the size to base 2
_HALF_GAP = math.radians(35)
_LEAST_TURN = math.radians(80)  # of a distractor's gap, from the top
_HALF_LINE = 0.75  # of the width of a ring's line, in pixels


def draw(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Draws the image among distractors.

  Args:
    key: One key.
    image: `[H, W, 1]`, floating, in [0, 1]: the digit that counts.
    clutter_images: `[N, H, W, 1]`, uint8, of which distractors are taken.

  Returns:
    The image `[48, 48, 1]`, and the truth: "translation" (x, y) of the target
    in pixels from the image's centre, "scale" in octaves.
  """
  keys = iter(jax.random.split(key, 6))
  count = jax.random.randint(next(keys), (), 1, MOST_DIGITS + 1)
  places = _places(next(keys))
  octaves = _uniform(next(keys), (MOST_DIGITS,), _OCTAVES)
  turns = jax.random.uniform(
    next(keys),
    (MOST_DIGITS,),
    minval=_LEAST_TURN,
    maxval=2 * math.pi - _LEAST_TURN,
  )
  turns = turns.at[0].set(0.0)
  chosen = jax.random.randint(
    next(keys), (MOST_DIGITS,), 0, len(clutter_images)
  )
  digits = clutter_images[chosen].astype(image.dtype) / 255
  digits = digits.at[0].set(image)
  ink = jax.vmap(_ringed)(digits, places, octaves, turns)
  shown = jnp.arange(MOST_DIGITS) < count
  ink = (ink * shown[:, None, None, None]).max(axis=0)
  sign = jax.random.rademacher(next(keys), (), ink.dtype)
  truth = {"translation": places[0], "scale": octaves[0]}
  return 0.5 + 0.5 * sign * ink, truth


def _places(key: jax.Array) -> jax.Array:
  """Places `[MOST_DIGITS, 2]`: the first uniform, the others beside it.

  A distractor is at the first of some uniform places where rings do not touch,
  or else at that farthest from the others.
  """
  keys = jax.random.split(key, MOST_DIGITS)
  places = _uniform(keys[0], (1, 2), _REACH)
  for each in keys[1:]:
    tried = _uniform(each, (_CANDIDATES, 2), _REACH)
    apart = jnp.linalg.norm(tried[:, None] - places, axis=-1).min(axis=1)
    clear = apart > 2 * _RADIUS * 2**_OCTAVES
    best = jnp.where(clear.any(), jnp.argmax(clear), jnp.argmax(apart))
    places = jnp.concatenate([places, tried[best][None]])
  return places


def _uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> jax.Array:
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _ringed(
  digit: jax.Array, place: jax.Array, octaves: jax.Array, turn: jax.Array
) -> jax.Array:
  """Ink `[48, 48, 1]` of a digit at a place, in a ring open at an angle."""
  size = 2.0**octaves
  height, width, _ = digit.shape
  factors = SIDE / (_DIGIT_SCALE * size * jnp.array([width, height]))
  theta = transforms.compose(
    transforms.scaling(factors), transforms.translation(-2 * place / SIDE)
  )
  ink = warp(digit, theta, output_shape=(SIDE, SIDE))
  pixels = jnp.arange(SIDE) - (SIDE - 1) / 2
  x, y = pixels[None, :] - place[0], pixels[:, None] - place[1]
  distance = jnp.hypot(x, y)
  ring = _HALF_LINE + 0.5 - jnp.abs(distance - _RADIUS * size)
  angle = jnp.arctan2(x, -y) - turn  # clockwise from the top
  away = jnp.abs(jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi)
  closed = (away - _HALF_GAP) * distance + 0.5
  ring = jnp.clip(ring, 0, 1) * jnp.clip(closed, 0, 1)
  return jnp.maximum(ink, ring[..., None])


def ideal(truth: data.Truth, shape: tuple[int, int, int]) -> jax.Array:
  """Theta of a transformer that centres the target, in a quarter of the image.

  Args:
    truth: As `draw` returns it.
    shape: `(H, W, C)` of the image.
  """
  size = jnp.array([shape[1], shape[0]])
  return transforms.compose(
    transforms.translation(2 * truth["translation"] / size),
    transforms.scaling(0.5 * 2.0 ** truth["scale"] * jnp.ones(2)),
  )


def ring_reader(
  task: Task,
  *,
  rngs: nnx.Rngs,
  width: float = 1.0,
  localisation_width: float = 1.0,
) -> Backbone:
  """A backbone of four blocks, the receptive fields of which grow past a ring.

  3 x 3 convolutions with batch norm, 8, 16, 32 and 32 filters, 2 x 2 pooling
  behind the first two; one dense layer. Localisation nets are dense, 32-32, at
  every depth: the task asks from where the target can be found, and they see
  all of a layer.

  Args:
    task: What to classify.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters.
    localisation_width: Factor on the widths of the localisation nets.
  """
  check_factors(width=width, localisation_width=localisation_width)

  def stages(rngs: nnx.Rngs) -> list[ConvBlock]:
    blocks, channels = [], task.image_shape[-1]
    for filters, pool in ((8, 2), (16, 2), (32, 0), (32, 0)):
      filters = scaled(filters, width)
      blocks.append(
        ConvBlock(
          channels,
          filters,
          3,
          pool=pool,
          batch_norm="before_relu",
          init="he_normal",
          rngs=rngs,
        )
      )
      channels = filters
    return blocks

  def localiser(
    shape: tuple[int, ...],
    image_shape: tuple[int, ...],
    num_params: int,
    *,
    size: str,
    rngs: nnx.Rngs,
  ) -> nn.LocalisationNet:
    del image_shape, size  # the same net everywhere
    dense = (scaled(32, localisation_width),) * 2
    return nn.LocalisationNet(
      shape, num_params, convs=(), dense=dense, rngs=rngs
    )

  made = stages(rngs)
  return Backbone(
    made,
    make_head=functools.partial(
      DenseHead, outputs=task.heads * task.num_classes
    ),
    fresh_stages=stages,
    localiser=localiser,
    padding="zeros",
    geometry=functools.partial(
      geometry, tuple(stage.windows for stage in made)
    ),
  )


RINGED_DIGITS = Perturbation(
  name="ringed_digits",
  draw=draw,
  axes=(data.TRANSLATION_X, data.TRANSLATION_Y),
  output_shape=lambda shape: (SIDE, SIDE, shape[2]),
  needs_clutter=True,
  title="{} among ringed distractors",
  ideal=ideal,
  ideal_shape=lambda shape: (shape[0] // 2, shape[1] // 2, shape[2]),
)
data.PERTURBATIONS.register(RINGED_DIGITS.name, RINGED_DIGITS)
_UNDONE = data.undone(RINGED_DIGITS)
data.PERTURBATIONS.register(_UNDONE.name, _UNDONE)
BACKBONES.register("ring_reader", ring_reader)
