"""A backbone for images of any size and number of channels."""

import functools
import itertools

from flax import nnx

from stnjax import alignability
from stnjax.nn import receptive_fields
from stnjax.nn.localisation import LocalisationNet
from stnjax.nn.receptive_fields import Window
from stnjax.placement import blocks
from stnjax.placement.backbone import BACKBONES, Backbone, Task

_FILTERS = (32, 64, 128, 256, 256, 256)
_SMALLEST = 3  # pixels behind the last pooling
_DROPOUT = 0.2


@BACKBONES.register("plain")
def plain(
  task: Task,
  *,
  rngs: nnx.Rngs,
  width: float = 1.0,
  localisation_width: float = 1.0,
  dropout: bool = True,
  init: str | None = None,
) -> Backbone:
  """Convolutions with batch norm, ReLU and pooling, then a global mean.

  Every stage halves the image, as often as at least 3 pixels are left, 6 times
  at most: 3 stages for images of 28 or 32 pixels, 6 from 192 pixels on.

  Args:
    task: What to classify, images of any size.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters, 32 in the first stage.
    localisation_width: Factor on the numbers of filters and hidden units of
      the localisation nets.
    dropout: Whether training drops a fifth of the features behind the mean.
    init: Initialiser of all layers but the last one of localisation nets, one
      of `stnjax.nn.initialisers.INITIALISERS`; "lecun_normal" if None.

  Raises:
    ValueError: For a factor that is not positive, or too large.
  """
  init = init or "lecun_normal"
  blocks.check_factors(width=width, localisation_width=localisation_width)
  filters = [
    blocks.scaled(count, width)
    for count in _FILTERS[: _num_stages(task.image_shape)]
  ]

  def stages(rngs: nnx.Rngs) -> list[blocks.ConvBlock]:
    channels = [task.image_shape[-1], *filters]
    return [
      blocks.ConvBlock(
        c, f, 3, pool=pool, batch_norm="before_relu", init=init, rngs=rngs
      )
      for (c, f), pool in zip(
        itertools.pairwise(channels), _pools(task.image_shape), strict=False
      )
    ]

  made = stages(rngs)
  return Backbone(
    made,
    blocks.MeanHead(
      filters[-1],
      task.heads * task.num_classes,
      dropout=_DROPOUT * dropout,
      init=init,
      rngs=rngs,
    ),
    fresh_stages=stages,
    localiser=functools.partial(
      _localiser, width=localisation_width, init=init
    ),
    geometry=functools.partial(
      geometry, tuple(stage.windows for stage in made)
    ),
    localisation_width=localisation_width,
  )


def geometry(
  windows: tuple[tuple[Window, ...], ...], depth: int
) -> alignability.Geometry:
  """Where features behind some stages lie, of the windows of each stage."""
  passed = itertools.chain.from_iterable(windows[:depth])
  return alignability.Geometry(*receptive_fields.receptive_field(passed))


def _num_stages(image_shape: tuple[int, int, int]) -> int:
  return max(1, sum(pool > 0 for pool in _pools(image_shape)))


def _pools(image_shape: tuple[int, int, int]) -> list[int]:
  """The pooling of each stage; none where an image is too small."""
  side, pools = min(image_shape[:2]), []
  for _ in _FILTERS:
    side //= 2
    pools.append(2 if side >= _SMALLEST else 0)
  return pools


def _localiser(
  shape: tuple[int, int, int],
  image_shape: tuple[int, int, int],
  num_params: int,
  *,
  width: float,
  init: str,
  rngs: nnx.Rngs,
) -> LocalisationNet:
  del image_shape
  filters, hidden = (blocks.scaled(count, width) for count in (20, 20))
  return LocalisationNet(
    shape,
    num_params,
    convs=((filters, 5), (filters, 5)),
    dense=(hidden,),
    init=init,
    rngs=rngs,
  )
