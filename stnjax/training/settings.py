"""Settings of a run: everything that decides its numbers."""

from collections.abc import Mapping
import dataclasses
import itertools
import math
import numbers
import re
from typing import Any

import numpy as np

from stnjax import checks, nn, placement, sampling
from stnjax.training import optimisers


def _setting(default: Any, help: str, accepted: Any = None) -> Any:
  metadata = {"help": help, "accepted": accepted}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that decides the numbers of a run; a flag each in the scripts.

  The names of a data set, perturbation, backbone and family are looked up when
  the run is built, see `stnjax.training.building.find`: reading the settings
  of a finished run needs no registered objects.

  Raises:
    TypeError: for a value of another type.
    ValueError: for a value that is not accepted, naming accepted ones.
  """

  network: str = _setting(
    "STN-SL1",
    "Network: CNN, GCNN, or STN-C, STN-DL, STN-SL, STN-EQ, STN-CAN, STN-UCN or"
    " DEF followed by the depths of the spatial transformers, such as STN-C1,"
    " STN-SL0,1 or STN-SL1x2.",
  )
  dataset: str = _setting(
    "mnist_subset",
    "Data set: the name of a registered one, `folder` for the pictures in"
    " --data_dir, or tfds:NAME for a prepared TFDS set in --data_dir.",
  )
  image_size: int | None = _setting(
    None,
    "Height and width to which pictures are resized, in pixels; for data sets"
    " whose pictures differ in size.",
  )
  perturbation: str = _setting(
    "rotation",
    "Perturbation of the images, resampled every time an image is used.",
  )
  downsample: int = _setting(
    1,
    "Factor by which images are downsampled after the perturbation, a whole"
    " number; for small machines.",
  )
  backbone: str = _setting(
    "", "Backbone to place transformers in; by default the data set's own."
  )
  family: str = _setting("affine", "Transform family that is predicted.")
  width: float = _setting(
    0.25,
    "Factor on the filters and hidden units of the backbone; 1 is the paper's.",
  )
  parameters: int | None = _setting(
    None,
    "Number of learnable parameters: the width of the backbone is chosen so"
    " that the network has as many, within 10 %. By default --width decides.",
  )
  localisation_width: float = _setting(
    1.0,
    "Factor on the filters and hidden units of the localisation net; 1 is the"
    " paper's.",
  )
  dropout: bool = _setting(
    True,
    "Whether the backbone has the paper's dropout; narrow networks learn little"
    " with it.",
  )
  localisation: str | None = _setting(
    None,
    "Size of the localisation net, small or large; by default the backbone's"
    " own. Some backbones have one size only.",
    (None, "small", "large"),
  )
  init: str | None = _setting(
    None,
    "Initial values of all layers but the last one of localisation nets:"
    " lecun_normal, he_normal, or torch, uniform in +-1/sqrt(fan_in), biases"
    " included; by default the backbone's own.",
    (None, *nn.initialisers.INITIALISERS),
  )
  padding: str | None = _setting(
    None,
    "Padding mode of the transformer; by default the backbone's own.",
    (None, *sampling.UNFILLED),
  )
  batch_norm: bool = _setting(
    False,
    "Whether a batch norm without parameters follows each run of the"
    " transformer.",
  )
  norm_average: float | None = _setting(
    None,
    "Share of its running averages that every batch norm keeps in a step of"
    " training; by default 0.99 unless the backbone sets another.",
  )
  train_images: int | None = _setting(
    None,
    "Number of training images, the first ones of each class in equal shares;"
    " by default all.",
  )
  epochs: int = _setting(30, "Number of passes over the training set.")
  batch_size: int = _setting(64, "Images in a step, over all devices.")
  optimiser: str = _setting(
    "adam", "Optimiser: adam or sgd.", optimisers.OPTIMISERS
  )
  momentum: float = _setting(
    0.9, "Momentum of sgd, from 0 to less than 1; not used by adam."
  )
  nesterov: bool = _setting(False, "Whether the momentum of sgd is Nesterov's.")
  weight_decay: float = _setting(
    0.0, "Factor of each parameter that is added to its gradient."
  )
  learning_rate: float = _setting(1e-3, "Initial learning rate.")
  schedule: str = _setting(
    "cosine",
    "Learning rate over the run: constant, cosine (to zero) or step (divided by"
    " 10 at lr_drop_steps).",
    optimisers.SCHEDULES,
  )
  lr_drop_steps: tuple[int, ...] = _setting(
    (),
    "Steps at which schedule=step divides the learning rate by 10; by default"
    " half and three quarters of the run.",
  )
  localisation_lr: float = _setting(
    1.0, "Multiplier on the learning rate of localisation."
  )
  localisation_scheme: str = _setting(
    "group",
    "What localisation_lr multiplies: group, the learning rate of parameters"
    " used by localisation alone; gradient, the gradient at theta, and with it"
    " that of shared layers (for sgd: adam divides by the size of gradients).",
    ("group", "gradient"),
  )
  pre_transformer_lr: float = _setting(
    1.0,
    "Multiplier on the learning rate of the backbone's stages before the"
    " transformer, or shared with localisation.",
  )
  trained: str = _setting(
    "all",
    "Parameters that are trained: all, or localisation, with the classifier"
    " frozen: its batch norms and dropout behave as in evaluation.",
    optimisers.TRAINED,
  )
  warm_start: str = _setting(
    "",
    "Run whose last checkpoint the network starts from: its folder, or one of"
    " its checkpoints; {seed} stands for the seed. Empty for initial values.",
  )
  more_iterations: tuple[int, ...] = _setting(
    (),
    "Epochs after which the last placement gets one more iteration, and"
    " localisation half the learning rate; without batch_norm.",
  )
  use_validation_split: bool = _setting(
    False,
    "Whether to train without the last tenth of the training set (of each"
    " class, if it is sorted by class) and to evaluate on it instead of on the"
    " test set, for tuning.",
  )
  eval_passes: int = _setting(
    10,
    "Passes over the evaluation set at the end, each freshly perturbed; at most"
    " 10,000.",
  )
  seed: int = _setting(0, "Seed of everything random, 0 to 2^32 - 1.")

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      _check_value(field, getattr(self, field.name))
    if self.parameters is not None and self.width != type(self).width:
      raise ValueError(
        f"parameters={self.parameters} chooses the width, and cannot be"
        f" combined with width={self.width:g}; leave one of them out"
      )
    parsed = placement.parse(self.network)
    if self.trained == "localisation" and not parsed.depths:
      raise ValueError(
        f"trained={self.trained!r}: network={self.network!r} has no"
        " localisation; accepted: a network with a transformer, or"
        " trained='all'"
      )
    _check_optimiser(self)
    if not self.more_iterations:
      return
    if not parsed.repeats:
      raise ValueError(
        f"more_iterations: {self.network} has no transformer to repeat;"
        " accepted: STN-C, STN-DL, STN-SL and STN-EQ"
      )
    most = placement.MOST_ITERATIONS - len(parsed.depths)
    if len(self.more_iterations) > most:
      raise ValueError(
        f"more_iterations must name at most {most} epochs for"
        f" network={self.network!r}, got {len(self.more_iterations)}; the"
        f" transformer runs at most {placement.MOST_ITERATIONS} times"
      )
    if self.more_iterations[-1] >= self.epochs:
      raise ValueError(
        f"more_iterations must be less than epochs={self.epochs}, got"
        f" {self.more_iterations}"
      )

  @property
  def name(self) -> str:
    """Name of the run's folder: what experiments usually vary, readable."""
    parts = (
      self.network,
      self.family,
      self.dataset,
      self.perturbation,
      *([self.backbone] if self.backbone else []),
      *([f"parameters_{self.parameters}"] if self.parameters else []),
      *([f"images_{self.train_images}"] if self.train_images else []),
      f"lr_{self.learning_rate:g}",
      *([f"warm_{_network_in(self.warm_start)}"] if self.warm_start else []),
      *(["localisation_only"] if self.trained == "localisation" else []),
      f"seed_{self.seed}",
    )
    return "-".join(parts).replace("/", "_")


def _network_in(path: str) -> str:
  """The network in the path of a run, or a short name for another path."""
  run = re.sub(r"/+(checkpoints(/+\d+)?/*)?$", "", path).rpartition("/")[2]
  found = re.match("(STN-)?[^-]*", run)
  return re.sub(r"[^\w.,+=-]", "_", found[0] if found else run)


def from_json(values: Mapping[str, Any]) -> Settings:
  """Settings from the JSON of their `dataclasses.asdict`.

  Raises:
    TypeError: for a setting that does not exist, or a value of another type.
    ValueError: for a value that is not accepted.
  """
  values = {
    k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
  }
  return Settings(**values)


MOST_STEPS = int(np.iinfo(np.int32).max)  # as `steps.TrainState.step`
_MOST = {
  int: MOST_STEPS,
  float: float(np.finfo(np.float32).max),
  "eval_passes": 10_000,  # their predictions are kept in memory
  "seed": int(np.iinfo(np.uint32).max),  # of a key
}
_FROM_ZERO = ("momentum", "seed", "weight_decay")  # others are positive
_BELOW_ONE = ("momentum", "norm_average")
_TINY = float(np.finfo(np.float32).tiny)  # computed with in float32
_FOLDER_NAME = re.compile(r"[\w.:+=/-]*")  # they are part of a folder's name
_NOT_IN_NAMES = ("network", "warm_start")  # as they are given


def _check_value(field: dataclasses.Field[Any], value: Any) -> None:
  """Raises unless a setting has a value of its type, within its bounds."""
  name, accepted = field.name, field.metadata["accepted"]
  if accepted:
    checks.option(name, value, accepted)
  elif field.type is bool:
    checks.flag(name, value)
  elif field.type is str:
    _check_name(name, value)
  elif field.type in (int, float):
    _check_number(name, value, field.type)
  elif field.type in (int | None, float | None):
    if value is not None:
      _check_number(name, value, int if field.type == int | None else float)
  elif field.type == tuple[int, ...]:
    _check_rising(name, value)


def _check_optimiser(settings: Settings) -> None:
  """Raises unless the settings of the optimiser go together."""
  if settings.lr_drop_steps and settings.schedule != "step":
    raise ValueError(
      "lr_drop_steps can only be given with schedule='step', got"
      f" schedule={settings.schedule!r}"
    )
  if settings.nesterov and (
    settings.optimiser != "sgd" or not settings.momentum
  ):
    raise ValueError(
      "nesterov=True needs optimiser='sgd' and a positive momentum, got"
      f" optimiser={settings.optimiser!r} and momentum={settings.momentum}"
    )


def _check_name(name: str, value: Any) -> None:
  if not isinstance(value, str):
    raise TypeError(f"{name} must be a string, got {value!r}")
  if name not in _NOT_IN_NAMES and not _FOLDER_NAME.fullmatch(value):
    raise ValueError(
      f"{name}={value!r} is not supported; accepted: letters, digits and any"
      " of _ . : + = / -"
    )


def _check_rising(name: str, value: Any) -> None:
  if not isinstance(value, tuple) or not all(
    isinstance(number, numbers.Integral) and not isinstance(number, bool)
    for number in value
  ):
    raise TypeError(f"{name} must be whole numbers in a tuple, got {value!r}")
  if any(low >= high for low, high in itertools.pairwise((0, *value))):
    raise ValueError(f"{name} must be positive and rise, got {value}")


def _check_number(name: str, value: Any, kind: type[int] | type[float]) -> None:
  abstract = numbers.Integral if kind is int else numbers.Real
  fine = isinstance(value, abstract) and not isinstance(value, bool)
  if not fine:
    raise TypeError(
      f"{name} must be a{' whole' if kind is int else ''} number, got {value!r}"
    )
  if name in _FROM_ZERO:
    if not 0 <= value < math.inf:
      raise ValueError(f"{name} must not be negative, got {value}")
  elif not 0 < value < math.inf:
    raise ValueError(f"{name} must be positive and finite, got {value}")
  most = _MOST.get(name, _MOST[kind])
  if value > most:
    largest = f"{most:,}" if kind is int else f"{most:.3g}"
    raise ValueError(f"{name} must be at most {largest}, got {value}")
  if name in _BELOW_ONE and value >= 1:
    raise ValueError(f"{name} must be less than 1, got {value}")
  if kind is float and 0 < value < _TINY:
    raise ValueError(f"{name} must be at least {_TINY:.3g}, got {value}")
