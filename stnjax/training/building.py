"""From settings to networks and trainers: names become objects here."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import inspect
from typing import Any

from flax import nnx
import jax
import numpy as np

from stnjax import data, placement, transforms
from stnjax.training import loops, optimisers, sizing, steps, trainer
from stnjax.training.description import TaskDescription, describe
from stnjax.training.keys import random_key
from stnjax.training.preparation import Preparation
from stnjax.training.settings import MOST_STEPS, Settings

MOST_PARAMETERS = 2**31 - 1
"""Most parameters of a network; arrays are indexed in int32."""


@dataclasses.dataclass(frozen=True)
class Setup:
  """The objects that settings name.

  Attributes:
    dataset: Data set, described as its files say.
    perturbation: Perturbation of its images.
    backbone: Name of the backbone.
    make_backbone: Function that makes the backbone, see
      `stnjax.placement.BACKBONES`.
    task: Task of the network: the shape of its input and its classes.
  """

  dataset: data.Dataset
  perturbation: data.Perturbation
  backbone: str
  make_backbone: Callable[..., placement.Backbone]
  task: placement.Task

  def describe(self) -> TaskDescription:
    """The description of the task for a run folder."""
    return describe(self.dataset, self.perturbation)


def find(settings: Settings, data_dir: str | None = None) -> Setup:
  """Looks up the objects that settings name.

  Args:
    settings: Settings of a run.
    data_dir: Folder of the data, for a data set whose description depends on
      its files.

  Raises:
    ValueError: for a name that is not registered, or objects that do not go
      together.
    FileNotFoundError: for a data set that is not there.
  """
  check_names(settings)
  perturbation = data.PERTURBATIONS[settings.perturbation]
  dataset = data.find(settings.dataset, data_dir, settings.image_size)
  name = settings.backbone or dataset.default_backbone(perturbation.name)
  make_backbone = placement.BACKBONES[name]
  rows, columns, channels = data.output_shape(perturbation, dataset.image_shape)
  factor = settings.downsample
  if factor > min(rows, columns):
    raise ValueError(
      f"downsample must be at most {min(rows, columns)}, the size of the images"
      f" of {dataset.name} with perturbation={perturbation.name!r}, got"
      f" {factor}"
    )
  if perturbation.axes and dataset.heads > 1:
    raise ValueError(
      f"perturbation={perturbation.name!r} is measured by class, and images of"
      f" {dataset.name} have {dataset.heads} labels; accepted: none, or an"
      " augmentation"
    )
  shape = (rows // factor, columns // factor, channels)
  return Setup(
    dataset,
    perturbation,
    name,
    make_backbone,
    placement.Task(shape, dataset.num_classes, dataset.heads),
  )


def check_names(settings: Settings) -> None:
  """Raises for a name that is not registered, apart from the data set's.

  Raises:
    ValueError: naming the setting, and the names that are registered.
  """
  data.PERTURBATIONS[settings.perturbation]
  transforms.num_params(settings.family)
  placement.parse(settings.network)
  if settings.backbone:
    placement.BACKBONES[settings.backbone]


def build_network(settings: Settings, setup: Setup) -> placement.Network:
  """Makes the network of a run, with its initial parameters.

  Raises:
    ValueError: see `abstract_network`.
  """
  abstract_network(settings, setup)  # nothing is allocated for one too large
  make = _initialiser(dataclasses.replace(settings, seed=0), setup)
  graphdef, state = make(random_key(settings.seed, "initialise"))
  return nnx.merge(graphdef, state)


def abstract_network(settings: Settings, setup: Setup) -> placement.Network:
  """The network of a run in shapes alone: to check it, and to count.

  Raises:
    ValueError: for a network that the images are too small for, with a
      placement deeper than its stages, of more than `MOST_PARAMETERS`, or with
      batch norms of runs of the transformer that are added during training.
  """
  # Not refused by `Settings`, so that older results can be read.
  if settings.more_iterations and settings.batch_norm:
    raise ValueError(
      "more_iterations cannot be combined with batch_norm=True: each run of the"
      " transformer has a batch norm, and added runs would have none; accepted:"
      " batch_norm=False"
    )
  return _abstract(dataclasses.replace(settings, seed=0), setup)


def sized(settings: Settings, setup: Setup) -> Settings:
  """The settings with the width that `parameters` asks for, if it does.

  Computed in shapes alone, and kept for further calls.

  Args:
    settings: Settings of a run.
    setup: Objects that the settings name.

  Returns:
    Settings without `parameters`.

  Raises:
    ValueError: for a backbone that takes no width, and where no width comes
      within 10 % of the number.
  """
  if settings.parameters is None:
    return settings
  if not _takes(setup, "width"):
    raise ValueError(
      f"parameters={settings.parameters}: backbone {setup.backbone!r} takes no"
      " width; leave it out"
    )
  free = dataclasses.replace(settings, seed=0, parameters=None)
  width = _fitted_width(free, setup, settings.parameters)
  return dataclasses.replace(settings, parameters=None, width=width)


@functools.lru_cache(maxsize=256)
def _fitted_width(settings: Settings, setup: Setup, parameters: int) -> float:
  def count(width: float) -> int:
    make = _maker(dataclasses.replace(settings, width=width), setup)
    network = nnx.eval_shape(lambda: make(jax.random.key(0)))
    return placement.count_parameters(network)["total"]

  try:
    return sizing.fit_width(count, parameters)
  except ValueError as error:
    raise ValueError(
      f"parameters={parameters} for network={settings.network!r}: {error}"
    ) from error


@functools.lru_cache(maxsize=32)
def _abstract(settings: Settings, setup: Setup) -> placement.Network:
  make = _maker(settings, setup)
  network = nnx.eval_shape(lambda: make(jax.random.key(0)))
  count = placement.count_parameters(network)["total"]
  if count > MOST_PARAMETERS:
    raise ValueError(
      f"width={settings.width:g} and"
      f" localisation_width={settings.localisation_width:g} make a"
      f" {settings.network} of {count:.3g} parameters; accepted: at most"
      f" {MOST_PARAMETERS:,}; take smaller widths"
    )
  return network


@functools.lru_cache(maxsize=32)
def _initialiser(
  settings: Settings, setup: Setup
) -> Callable[
  [jax.Array], tuple[nnx.GraphDef[placement.Network], nnx.State[Any, Any]]
]:
  """From a key to the parts of a network; compiled once for all seeds.

  On CPU with no optimisation, which would take ten times as long as it saves:
  it runs once.
  """
  make = _maker(settings, setup)
  on_cpu = jax.default_backend() == "cpu"
  return jax.jit(
    lambda key: nnx.split(make(key)),
    compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
  )


def _maker(
  settings: Settings, setup: Setup
) -> Callable[[jax.Array], placement.Network]:
  """The function from a key to the network, which may be traced."""
  settings = sized(settings, setup)
  options = _backbone_options(settings, setup)
  parsed = placement.parse(settings.network)
  gradient = settings.localisation_scheme == "gradient"

  geometry = placement.probe_backbone(
    setup.make_backbone,
    setup.task,
    depths=parsed.geometry_depths,
    orientations=parsed.orientations,
    **options,
  )

  def make(key: jax.Array) -> placement.Network:
    network = placement.create(
      setup.make_backbone,
      parsed,
      setup.task,
      family=settings.family,
      localisation=settings.localisation,
      norm_average=settings.norm_average,
      padding=settings.padding,
      batch_norm=settings.batch_norm,
      theta_gradient=settings.localisation_lr if gradient else 1.0,
      geometry=geometry,
      rngs=nnx.Rngs(key),
      **options,
    )
    network.classifier_frozen = settings.trained == "localisation"
    return network

  return make


def _backbone_options(settings: Settings, setup: Setup) -> dict[str, Any]:
  """The settings that a backbone takes as arguments.

  Raises:
    ValueError: for one that differs from its default and is not taken.
  """
  options = {}
  for name in ("width", "localisation_width", "dropout", "init"):
    value = getattr(settings, name)
    if _takes(setup, name):
      options[name] = value
    elif value != getattr(Settings, name):
      raise ValueError(
        f"{name}={value}: backbone {setup.backbone!r} takes no {name}; leave it"
        " out"
      )
  return options


def _takes(setup: Setup, option: str) -> bool:
  """Whether the backbone has an argument of a name, or takes any."""
  taken = inspect.signature(setup.make_backbone).parameters
  takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())
  return takes_all or option in taken


def num_steps(settings: Settings, num_images: int) -> int:
  """Number of steps of a run.

  Args:
    settings: Settings of the run.
    num_images: Images of the training set.

  Raises:
    ValueError: if a batch is larger than the training set, or the steps exceed
      int32, in which they are counted.
  """
  per_epoch = loops.steps_per_epoch(num_images, settings.batch_size)
  total = per_epoch * settings.epochs
  if total > MOST_STEPS:
    raise ValueError(
      f"epochs={settings.epochs} of {per_epoch} steps each make {total:,}"
      f" steps; accepted: at most {MOST_STEPS:,} steps in all"
    )
  return total


def build_trainer(
  settings: Sequence[Settings],
  setup: Setup,
  images: np.ndarray,
  devices: Sequence[jax.Device] | None = None,
) -> tuple[trainer.Trainer, steps.TrainState]:
  """The compiled loops of runs, and their states before the first step.

  Args:
    settings: Settings of runs that differ in their seed alone.
    setup: Objects that the settings name.
    images: `[N, H, W, C]`, uint8, the training images.
    devices: Devices to train on; those of all processes by default.

  Raises:
    ValueError: see `num_steps` and `abstract_network`.
  """
  common = settings[0]
  total = num_steps(common, len(images))
  per_epoch = total // common.epochs
  group = common.localisation_scheme == "group"
  starts = [per_epoch * epoch for epoch in common.more_iterations]
  optimiser = optimisers.make_optimiser(
    common.optimiser,
    common.learning_rate,
    total,
    placement.parse(common.network),
    momentum=common.momentum,
    nesterov=common.nesterov,
    weight_decay=common.weight_decay,
    schedule_name=common.schedule,
    drop_steps=common.lr_drop_steps,
    localisation_lr=common.localisation_lr if group else 1.0,
    pre_transformer_lr=common.pre_transformer_lr,
    halvings=starts if group else (),
    trained=common.trained,
  )
  networks = [build_network(each, setup) for each in settings]
  states = [steps.init_state(network, optimiser) for network in networks]
  gradient = networks[0].theta_gradient
  phases = [
    nnx.graphdef(
      networks[0].with_iterations(
        more, theta_gradient=gradient if group else gradient / 2**more
      )
    )
    for more in range(1, len(starts) + 1)
  ]
  mean, std = setup.dataset.normalisation(setup.perturbation.name, images)
  parts = steps.split(networks[0])
  spec = steps.TrainSpec(
    parts.graphdef,
    parts.streams,
    optimiser,
    Preparation(setup.perturbation, mean, std, common.downsample),
    common.batch_size,
    tuple(zip(starts, phases, strict=True)),
  )
  built = trainer.Trainer(
    spec,
    [each.seed for each in settings],
    images if setup.perturbation.needs_clutter else None,
    devices,
  )
  return built, trainer.stacked(*states)
