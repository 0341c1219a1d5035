"""The paper's classifiers as backbones: "mnist", ..., "cifar"."""

from collections.abc import Mapping, Sequence
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
) -> Backbone:
  """Makes a backbone of a classifier of the paper.

  Args:
    classifier: Its layers.
    task: What to classify.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters and hidden units.
    localisation_width: Factor on those of the localisation nets.
    dropout: Whether to keep the dropout.

  Raises:
    ValueError: For a factor that is not positive, or too large.
  """
  layers = classifier.resized(width, localisation_width, dropout)
  stages = functools.partial(_stages, layers, task.image_shape[-1])
  made = stages(rngs)
  halves = layers.halves_from
  return Backbone(
    made,
    make_head=functools.partial(_head, layers, task.heads * task.num_classes),
    fresh_stages=stages,
    localiser=functools.partial(_localiser, layers),
    padding=layers.padding,
    halve_output=bool(halves) and min(task.image_shape[:2]) >= halves,
    geometry=functools.partial(
      geometry, tuple(stage.windows for stage in made)
    ),
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
        batch_norm=layer.batch_norm,
        dropout=layer.dropout,
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
    slope=classifier.slope,
    init=classifier.init,
    rngs=rngs,
  )


def _localiser(
  classifier: Classifier,
  shape: Sequence[int],
  image_shape: Sequence[int],
  num_params: int,
  *,
  size: str,
  rngs: nnx.Rngs,
) -> nn.LocalisationNet:
  checks.option("localisation", size, tuple(classifier.localisation))
  layers = classifier.localisation[size].sized_for(shape, image_shape)
  return nn.LocalisationNet(
    shape,
    num_params,
    convs=layers.convs,
    dense=layers.dense,
    pools=layers.pools,
    halve_input=layers.halved,
    slope=classifier.slope,
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
