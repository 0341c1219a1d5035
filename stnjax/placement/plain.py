"""A backbone for images of any size and number of channels."""

import functools
import itertools

from flax import nnx

from stnjax import alignability
from stnjax.nn import receptive_fields
from stnjax.nn.localisation import LocalisationNet
from stnjax.nn.receptive_fields import Window
from stnjax.placement import blocks, group_blocks
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
  orientations: int = 1,
) -> Backbone:
  """Convolutions with batch norm, ReLU and pooling, then a global mean.

  Every stage halves the image, as often as at least 3 pixels are left, 6 times
  at most: 3 stages for images of 28 or 32 pixels, 6 from 192 pixels on.

  With group convolutions, the head keeps the largest of each filter's means.
  Invariance to quarter turns is exact, but for rounding, where all poolings get
  even sides, as of images of 32, 64 or 96 pixels, but not of 28.

  Args:
    task: What to classify, images of any size.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters, 32 in the first stage.
    localisation_width: Factor on the numbers of filters and hidden units of
      the localisation nets.
    dropout: Whether training drops a fifth of the features behind the mean.
    init: Initialiser of all layers but the last one of localisation nets, one
      of `stnjax.nn.initialisers.INITIALISERS`; "lecun_normal" if None.
    orientations: Number of orientations G of group convolutions, a multiple of
      4, with 1/sqrt(G) of the filters, so that the number of parameters stays
      about the same; 1 for ordinary convolutions.

  Raises:
    ValueError: For a factor that is not positive, or too large, or a number of
      orientations that is neither 1 nor a multiple of 4.
  """
  init = init or "lecun_normal"
  blocks.check_factors(width=width, localisation_width=localisation_width)
  filters = [
    group_blocks.scaled_filters(blocks.scaled(count, width), orientations)
    for count in _FILTERS[: _num_stages(task.image_shape)]
  ]

  def stages(rngs: nnx.Rngs) -> list[blocks.BaseBlock]:
    channels = [task.image_shape[-1], *filters]
    return [
      group_blocks.conv_block(
        c,
        f,
        3,
        orientations=orientations,
        lifts=index == 0,
        pool=pool,
        batch_norm="before_relu",
        init=init,
        rngs=rngs,
      )
      for index, ((c, f), pool) in enumerate(
        zip(itertools.pairwise(channels), _pools(task.image_shape))
      )
    ]

  made = stages(rngs)
  return Backbone(
    made,
    blocks.MeanHead(
      filters[-1],
      task.heads * task.num_classes,
      orientations=orientations,
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
    orientations=orientations,
  )


def geometry(
  windows: tuple[tuple[Window, ...], ...], depth: int
) -> alignability.Geometry:
  """Geometry of features behind some stages, from the windows of each."""
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
