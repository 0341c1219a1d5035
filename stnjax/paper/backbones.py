"""The paper's classifiers as backbones: "mnist", ..., "cifar"."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

from flax import nnx

from stnjax import checks, nn
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Classifier
from stnjax.placement import (
  BACKBONES,
  Backbone,
  DenseHead,
  GroupHead,
  Task,
  group_blocks,
)
from stnjax.placement.blocks import BaseBlock
from stnjax.placement.plain import geometry


def backbone(
  classifier: Classifier,
  task: Task,
  *,
  rngs: nnx.Rngs,
  width: float = 1.0,
  localisation_width: float = 1.0,
  dropout: bool = True,
  init: str | None = None,
  orientations: int = 1,
) -> Backbone:
  """Makes a backbone of a classifier of the paper.

  Args:
    classifier: Its layers.
    task: What to classify.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters and hidden units.
    localisation_width: Factor on those of the localisation nets.
    dropout: Whether to keep the dropout.
    init: Initialiser of all layers but the last one of localisation nets, one
      of `stnjax.nn.initialisers.INITIALISERS`. By default that of the
      classifier, and "lecun_normal" in localisation nets.
    orientations: Number of orientations G of group convolutions, a multiple of
      4, with 1/sqrt(G) of the filters, so that the number of parameters stays
      about the same; 1 for ordinary convolutions. The head is a `GroupHead`,
      whose group convolution stands for the first hidden layer; where there is
      none, it has as many filters as an ordinary last stage.

  Raises:
    ValueError: For a factor that is not positive, or too large, an unknown
      init, or a number of orientations that is neither 1 nor a multiple of 4.
  """
  layers = classifier.resized(width, localisation_width, dropout)
  if init is not None:
    layers = dataclasses.replace(layers, init=init)
  channels = task.image_shape[-1]
  stages = functools.partial(_stages, layers, channels, orientations)
  made = stages(rngs)
  halves = layers.halves_from
  return Backbone(
    made,
    make_head=functools.partial(
      _head, layers, task.heads * task.num_classes, orientations
    ),
    fresh_stages=stages,
    localiser=functools.partial(_localiser, layers, init or "lecun_normal"),
    localisation=layers.default_localisation,
    padding=layers.padding,
    halve_output=bool(halves) and min(task.image_shape[:2]) >= halves,
    geometry=functools.partial(
      geometry, tuple(stage.windows for stage in made)
    ),
    localisation_width=localisation_width,
    orientations=orientations,
  )


def _stages(
  classifier: Classifier, channels: int, orientations: int, rngs: nnx.Rngs
) -> list[BaseBlock]:
  stages = []
  for index, layer in enumerate(classifier.convs):
    filters = group_blocks.scaled_filters(layer.filters, orientations)
    stages.append(
      group_blocks.conv_block(
        channels,
        filters,
        layer.kernel_size,
        orientations=orientations,
        lifts=index == 0,
        padding=layer.padding,
        pool=layer.pool,
        batch_norm="after_relu" if layer.batch_norm else None,
        dropout=layer.dropout,
        drop_channels=layer.drop_channels,
        slope=classifier.slope,
        init=classifier.init,
        rngs=rngs,
      )
    )
    channels = filters
  return stages


def _head(
  classifier: Classifier,
  outputs: int,
  orientations: int,
  shape: Sequence[int],
  *,
  rngs: nnx.Rngs,
) -> DenseHead | GroupHead:
  widths = classifier.dense
  head: Callable[..., DenseHead | GroupHead] = DenseHead
  if orientations > 1:
    # The maximum over orientations leaves one unit of each filter.
    first = (
      group_blocks.scaled_filters(widths[0], orientations)
      if widths
      else classifier.convs[-1].filters
    )
    widths = (first, *widths[1:])
    head = functools.partial(GroupHead, orientations=orientations)
  return head(
    shape,
    outputs,
    widths=widths,
    dropout=classifier.dropout,
    drop_input=classifier.drop_features,
    slope=classifier.slope,
    init=classifier.init,
    rngs=rngs,
  )


def _localiser(
  classifier: Classifier,
  init: str,
  shape: Sequence[int],
  image_shape: Sequence[int],
  num_params: int,
  *,
  size: str,
  rngs: nnx.Rngs,
) -> nn.LocalisationNet:
  checks.option("localisation", size, tuple(classifier.localisation))
  layers = classifier.localisation[size]
  return nn.LocalisationNet(
    shape,
    num_params,
    convs=layers.convs,
    dense=layers.dense,
    halve_input=layers.halving(shape, image_shape),
    slope=classifier.slope,
    init=init,
    rngs=rngs,
  )


CLASSIFIERS: Mapping[str, Classifier] = {
  "mnist": classifiers.MNIST,
  "mnist_translation": classifiers.MNIST_TRANSLATION,
  "mnist_scale": classifiers.MNIST_SCALE,
  "house_numbers": classifiers.HOUSE_NUMBERS,
  "plankton": classifiers.PLANKTON,
  "cifar": classifiers.CIFAR,
}
"""The paper's classifiers by the name of the backbone that is made of each."""

for _name, _classifier in CLASSIFIERS.items():
  BACKBONES.register(_name, functools.partial(backbone, _classifier))
