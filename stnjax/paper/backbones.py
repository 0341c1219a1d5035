"""The paper's classifiers as backbones: "mnist", ..., "cifar"."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

from flax import nnx

from stnjax import checks, nn
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Classifier
from stnjax.placement import BACKBONES, Backbone, ConvBlock, DenseHead, Task
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

  Raises:
    ValueError: For a factor that is not positive, or too large, or an unknown
      init.
  """
  layers = classifier.resized(width, localisation_width, dropout)
  if init is not None:
    layers = dataclasses.replace(layers, init=init)
  stages = functools.partial(_stages, layers, task.image_shape[-1])
  made = stages(rngs)
  halves = layers.halves_from
  return Backbone(
    made,
    make_head=functools.partial(_head, layers, task.heads * task.num_classes),
    fresh_stages=stages,
    localiser=functools.partial(_localiser, layers, init or "lecun_normal"),
    localisation=layers.default_localisation,
    padding=layers.padding,
    halve_output=bool(halves) and min(task.image_shape[:2]) >= halves,
    geometry=functools.partial(
      geometry, tuple(stage.windows for stage in made)
    ),
    localisation_width=localisation_width,
  )


def _stages(
  classifier: Classifier, channels: int, rngs: nnx.Rngs
) -> list[ConvBlock]:
  stages = []
  for layer in classifier.convs:
    stages.append(
      ConvBlock(
        channels,
        layer.filters,
        layer.kernel_size,
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
    channels = layer.filters
  return stages


def _head(
  classifier: Classifier,
  outputs: int,
  shape: Sequence[int],
  *,
  rngs: nnx.Rngs,
) -> DenseHead:
  return DenseHead(
    shape,
    outputs,
    widths=classifier.dense,
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
