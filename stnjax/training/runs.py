"""A run: its settings, and the folder that holds all it wrote.

<workdir>/<name of the run>/
  config.json      the settings, and what tells its training images from others;
                   a folder with other settings or images is refused
  metrics.jsonl    one line per epoch
  checkpoints/     the last states, by step (orbax)
  evaluation.npz   of the finished run, per test image: label, prediction,
                   pose, truth; and a few images before and after the warp
  results.json     of the finished run: error, alignment, parameters, time
  DONE             written last, with the checksums of the files above
  FAILED           instead, where numbers were no longer finite: why
  lock             while a process trains it
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import itertools
import math
import numbers
import os
from typing import Any
import zlib

from etils import epath
from flax import nnx
import jax
import numpy as np

from stnjax import checks, data, evaluation, files, sampling, transforms
from stnjax.data import perturbations
from stnjax.files import Damaged as Damaged
from stnjax.files import RunError as RunError
from stnjax.placement import networks, placements
from stnjax.training import checkpoints, programs, records, steps
from stnjax.training.records import read_metrics as read_metrics


def _setting(default: Any, help: str, accepted: Any = None) -> Any:
  metadata = {"help": help, "accepted": accepted}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that decides the numbers of a run; a flag each in the scripts.

  Raises:
    ValueError: for a value that is not accepted, naming what is.
  """

  network: str = _setting(
    "STN-SL1",
    "Network: CNN, or STN-C, STN-DL, STN-SL followed by the depths at which"
    " the transformer sits, such as STN-C1, STN-SL0,1 or STN-SL1x2.",
  )
  dataset: str = _setting(
    "mnist_subset",
    "Data set; mnist_subset is embedded, others need --data_dir.",
    tuple(data.SETS),
  )
  perturbation: str = _setting(
    "rotation",
    "How each image is perturbed, drawn afresh each time it is used.",
    tuple(perturbations.PERTURBATIONS),
  )
  shrink: int = _setting(
    1,
    "Whole factor by which images are made smaller after the perturbation, for"
    " small machines.",
  )
  family: str = _setting(
    "affine", "Transform family that is predicted.", transforms.FAMILIES
  )
  width: float = _setting(
    0.25,
    "Multiplies the filters and hidden units of the classifier; 1 is the"
    " paper's.",
  )
  localisation_width: float = _setting(
    1.0, "Multiplies those of the localisation net; 1 is the paper's."
  )
  dropout: bool = _setting(
    True,
    "Whether the classifier has the paper's dropout; narrow ones learn little"
    " with it.",
  )
  localisation: str = _setting(
    "small",
    "Size of the localisation net: small, or large where the data set has one.",
    ("small", "large"),
  )
  padding: str | None = _setting(
    None,
    "What the transformer reads outside; by default as in the paper: border"
    " for MNIST and plankton, zeros for others.",
    (None, *sampling.UNFILLED),
  )
  batch_norm: bool = _setting(
    False, "Whether a batch norm without parameters follows the transformer."
  )
  epochs: int = _setting(30, "Passes over the training set.")
  batch_size: int = _setting(64, "Images of a step, over all devices.")
  optimiser: str = _setting(
    "adam", "Optimiser; sgd has momentum 0.9.", steps.OPTIMISERS
  )
  learning_rate: float = _setting(1e-3, "Learning rate at the start.")
  schedule: str = _setting(
    "cosine",
    "Learning rate over the run: constant, cosine (to zero) or step (a tenth"
    " after half, a hundredth after three quarters).",
    steps.SCHEDULES,
  )
  localisation_lr: float = _setting(
    1.0, "Multiplier on the learning rate of localisation."
  )
  localisation_scheme: str = _setting(
    "group",
    "What localisation_lr multiplies: group, the learning rate of what only"
    " localisation uses; gradient, the gradient at theta, and with it that of"
    " shared layers (for sgd: adam divides by the size of gradients).",
    ("group", "gradient"),
  )
  before_lr: float = _setting(
    1.0,
    "Multiplier on the learning rate of the classifier's blocks before the"
    " transformer, or shared with localisation.",
  )
  more_iterations: tuple[int, ...] = _setting(
    (),
    "Epochs after which the last placement gets one more iteration, and"
    " localisation half the learning rate.",
  )
  holdout: bool = _setting(
    False,
    "Whether to train without the last tenth of the training set and to"
    " evaluate on it instead of on the test set, for tuning.",
  )
  eval_passes: int = _setting(
    10,
    "Passes over the evaluation set at the end, each perturbed afresh; at most"
    " 10,000.",
  )
  seed: int = _setting(0, "Seed of everything random, 0 to 2^32 - 1.")

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _check_value(field, getattr(self, field.name))
    rows, columns, _ = perturbations.output_shape(
      self.perturbation, data.SETS[self.dataset].image_shape
    )
    if self.shrink > min(rows, columns):
      raise ValueError(
        f"shrink must be at most {min(rows, columns)}, the size of the images"
        f" of {self.dataset} with perturbation={self.perturbation!r}, got"
        f" {self.shrink}"
      )
    placement = placements.parse(self.network)
    once = not placement.depths or placement.deforms
    if self.more_iterations and once:
      raise ValueError(
        f"more_iterations: a {placement.kind} has no transformer to repeat;"
        " accepted: STN-C, STN-DL and STN-SL"
      )
    most = placements.MOST_ITERATIONS - len(placement.depths)
    if len(self.more_iterations) > most:
      raise ValueError(
        f"more_iterations must name at most {most} epochs for"
        f" network={self.network!r}, got {len(self.more_iterations)}; the"
        f" transformer runs at most {placements.MOST_ITERATIONS} times"
      )
    if self.more_iterations and self.more_iterations[-1] >= self.epochs:
      raise ValueError(
        f"more_iterations must be less than epochs={self.epochs}, got"
        f" {self.more_iterations}"
      )
    measured = self.perturbation in evaluation.AXES
    if measured and data.SETS[self.dataset].heads > 1:
      raise ValueError(
        f"perturbation={self.perturbation!r} is undone by class, and the"
        f" numbers of {self.dataset} have none; accepted: none, or an"
        " augmentation"
      )

  @property
  def name(self) -> str:
    """Name of the run's folder: what experiments usually vary, readable."""
    return (
      f"{self.network}-{self.family}-{self.dataset}-{self.perturbation}"
      f"-lr_{self.learning_rate:g}-seed_{self.seed}"
    )


_MOST = {
  int: np.iinfo(np.int32).max,  # as `steps.TrainState.step`
  float: float(np.finfo(np.float32).max),
  "eval_passes": 10_000,  # their predictions are kept in memory
  "seed": np.iinfo(np.uint32).max,  # of a key
}
_TINY = float(np.finfo(np.float32).tiny)  # computed with in float32


def _check_value(field: dataclasses.Field, value: Any) -> None:
  """Raises unless a setting has a value of its type, within its bounds."""
  name, accepted = field.name, field.metadata["accepted"]
  if accepted:
    checks.option(name, value, accepted)
  elif field.type is bool:
    checks.flag(name, value)
  elif field.type is str and not isinstance(value, str):
    raise TypeError(f"{name} must be a string, got {value!r}")
  elif field.type in (int, float):
    _check_number(name, value, field.type)
  elif field.type == tuple[int, ...]:
    if not isinstance(value, tuple) or not all(
      isinstance(number, numbers.Integral) and not isinstance(number, bool)
      for number in value
    ):
      raise TypeError(f"{name} must be whole numbers in a tuple, got {value!r}")
    if any(low >= high for low, high in itertools.pairwise((0, *value))):
      raise ValueError(f"{name} must be positive and rise, got {value}")


def _check_number(name: str, value: Any, kind: type) -> None:
  abstract = numbers.Integral if kind is int else numbers.Real
  if isinstance(value, bool) or not isinstance(value, abstract):
    raise TypeError(
      f"{name} must be a{' whole' if kind is int else ''} number, got {value!r}"
    )
  if name == "seed":
    if value < 0:
      raise ValueError(f"seed must not be negative, got {value}")
  elif not 0 < value < math.inf:
    raise ValueError(f"{name} must be positive and finite, got {value}")
  most = _MOST.get(name, _MOST[kind])
  if value > most:
    largest = f"{most:,}" if kind is int else f"{most:.3g}"
    raise ValueError(f"{name} must be at most {largest}, got {value}")
  if kind is float and value < _TINY:
    raise ValueError(f"{name} must be at least {_TINY:.3g}, got {value}")


class Run:
  """The folder of one run.

  Several processes may hold the same run; only the first of them writes, but
  for checkpoints, which orbax coordinates.

  Attributes:
    settings: of the run.
    path: the folder.
    seconds: time trained since the last line of metrics, which checkpoints
      keep: whoever trains adds to it.
  """

  def __init__(
    self,
    workdir: str,
    settings: Settings,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Names the folder of a run, and looks at what is in it.

    Args:
      workdir: folder of all runs, local or `gs://`.
      settings: of this run.
      devices: that train it; those of all processes by default.

    Raises:
      RunError: where the folder belongs to a run with other settings, or is
        no run folder.
      Damaged: where it is a run's whose config.json is missing or unreadable.
    """
    self.settings = settings
    self.path = folder(workdir, settings)
    self.seconds = 0.0
    devices = jax.devices() if devices is None else devices
    processes = programs.processes(devices)
    self._writes = jax.process_index() == processes[0]
    self._checkpoints = checkpoints.Checkpoints(
      self.path / "checkpoints", settings.name, processes
    )
    self._check()

  @property
  def done(self) -> bool:
    """Whether the run is finished."""
    return (self.path / "DONE").exists()

  @property
  def failed(self) -> str:
    """Why the run failed; empty where it did not."""
    path = self.path / "FAILED"
    if not path.exists():
      return ""
    with files.advising(_anew(self.path)):
      found = files.read(path)
    return found.decode(errors="replace").strip() or "it failed"

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one per epoch.

    Raises:
      Damaged: where a line is not one of metrics.
    """
    with files.advising(_anew(self.path)):
      return read_metrics(self.path)

  def check_metrics(self, step: int, epochs: int) -> None:
    """Checks that metrics up to a step tell of as many epochs.

    Raises:
      Damaged: where an epoch, or a number of it, is missing.
    """
    lines = [line for line in self.metrics() if line["step"] <= step]
    with files.advising(_anew(self.path)):
      records.check_epochs(self.path, lines, epochs, self.settings)

  def results(self) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
      Damaged: where a file of the run is not what it wrote.
    """
    return records.read(self.path, self.settings).results

  @contextlib.contextmanager
  def claimed(self) -> Iterator[None]:
    """Keeps other processes from training the run meanwhile.

    Raises:
      RunError: where one does, or the folder cannot be written.
    """
    with files.claimed(self.path) if self._writes else contextlib.nullcontext():
      yield

  def start(self, data: str = "") -> None:
    """Makes the folder, if it is not there.

    Args:
      data: what tells the training images from others, see `fingerprint`.

    Raises:
      RunError: where it cannot be written, or where the run began on other
        images.
    """
    if not self._writes:
      return
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
    config = self.path / "config.json"
    before = _read_config(self.path) if config.exists() else {}
    if data and before.get("data", data) != data:
      raise RunError(
        f"{self.path} began on other images of {self.settings.dataset} than"
        " those that are there now, perhaps of another version; choose"
        " another workdir, or delete the folder to train it again"
      )
    values = {**dataclasses.asdict(self.settings), "data": data}
    self._write("config.json", files.to_json(values, indent=2) + "\n")

  def append(self, line: dict[str, Any]) -> None:
    """Adds one epoch to metrics.jsonl; `seconds` start anew.

    Raises:
      RunError: where it has the epoch, which another process must have added.
    """
    self.seconds = 0.0
    if not self._writes:
      return
    lines = self.metrics()
    if lines and lines[-1]["step"] >= line["step"]:
      raise RunError(
        f"{self.path} already has step {line['step']}: is another process"
        " training the same run?"
      )
    self._write_metrics([*lines, line])

  def saved_step(self) -> int:
    """Step of the last checkpoint; 0 where there is none.

    Raises:
      Damaged: where the folder of checkpoints cannot be listed.
    """
    return self._checkpoints.last_step()

  def save(self, state: steps.TrainState) -> None:
    """Writes a checkpoint of the state, unless its step has one.

    Raises:
      RunError: where it cannot be written.
    """
    self._checkpoints.save(int(state.step), _leaves(state), self.seconds)

  def restore(self, fresh: steps.TrainState) -> steps.TrainState:
    """Reads the last checkpoint to go on from; `fresh` where there is none.

    Metrics of epochs after the checkpoint are taken back, as they will be
    computed again, the same.

    Args:
      fresh: a state of this run's shapes.

    Raises:
      RunError: where the checkpoint cannot be read or does not fit.
    """
    state = self.last_state(fresh)
    step = int(state.step)
    if self._writes:
      lines = self.metrics()  # without one that a kill cut off
      self._write_metrics([line for line in lines if line["step"] <= step])
    return state

  def last_state(self, fresh: steps.TrainState) -> steps.TrainState:
    """The state of the last checkpoint, and its `seconds`; writes nothing.

    Args:
      fresh: a state of this run's shapes; returned where there is none.

    Raises:
      RunError: where the checkpoint cannot be read or does not fit.
    """
    step = self.saved_step()
    if not step:
      return fresh
    leaves = _leaves(fresh)
    found, self.seconds = self._checkpoints.restore(step, leaves)
    values = [found[name] for name in leaves]
    return jax.tree.unflatten(jax.tree.structure(fresh), values)

  def finish(
    self, evaluation: dict[str, np.ndarray], results: dict[str, Any]
  ) -> None:
    """Writes what the finished run found, and marks it done.

    Raises:
      RunError: where a file cannot be written.
    """
    if self._writes:
      records.finish(self.path, evaluation, results)

  def fail(self, why: str) -> None:
    """Marks the run as one that cannot be finished."""
    if self._writes:
      self._write("FAILED", why)

  def _check(self) -> None:
    """Raises unless the folder is this run's, or free."""
    try:
      names = {entry.name for entry in self.path.iterdir()}
    except FileNotFoundError:
      return
    except OSError as error:
      if not self.path.parent.is_dir():  # no run's fault, but the workdir's
        raise RunError(f"cannot use {self.path}: {error}") from error
      raise Damaged(
        f"cannot use {self.path}: {error.strerror}; {_anew(self.path)}"
      ) from error
    if "config.json" not in names:
      if names & {*records.TRACES, records.RESULTS}:
        raise Damaged(
          f"{self.path / 'config.json'} is missing; {_anew(self.path)}"
        )
      if names - {"config.json.partial", "lock"}:  # a kill can leave those
        raise RunError(
          f"{self.path} is not a run folder (no config.json), and not empty;"
          " choose another workdir"
        )
      return
    found = dataclasses.asdict(read_settings(self.path))
    changes = ", ".join(
      f"{name}: {found[name]} there, {value} here"
      for name, value in dataclasses.asdict(self.settings).items()
      if found[name] != value
    )
    if changes:
      raise RunError(
        f"{self.path} holds a run with other settings ({changes}); choose"
        " another workdir"
      )

  def _write(self, name: str, text: str) -> None:
    files.write_whole(self.path / name, text)

  def _write_metrics(self, lines: list[dict[str, Any]]) -> None:
    # Whole, as gs:// has no appending.
    self._write(
      "metrics.jsonl", "".join(files.to_json(k) + "\n" for k in lines)
    )


def folder(workdir: str, settings: Settings) -> epath.Path:
  """Where the run with these settings is, or would be.

  Raises:
    ValueError: for a workdir that is neither local nor `gs://`.
  """
  return files.place("workdir", workdir) / settings.name


def read_settings(folder: epath.PathLike) -> Settings:
  """The settings of a run folder.

  Raises:
    Damaged: where the folder has no readable config.json, or one of a run with
      another name; the message says what to do.
  """
  path = epath.Path(folder) / "config.json"
  values = _read_config(folder)
  values.pop("data", None)
  try:
    settings = settings_from_json(values)
  except files.UNREADABLE as error:
    raise Damaged(f"cannot read {path}: {error}; {_anew(folder)}") from error
  if settings.name != path.parent.name:
    raise Damaged(
      f"{path} is that of a run named {settings.name}, and a folder has the"
      " name of its run; rename the folder, or delete it"
    )
  return settings


def _read_config(folder: epath.PathLike) -> dict[str, Any]:
  path = epath.Path(folder) / "config.json"
  with files.advising(_anew(folder)):
    values = records.parse(path, files.read(path))
    if not isinstance(values, dict):
      raise Damaged(f"cannot read {path}: it holds no settings")
  return values


def _anew(folder: epath.PathLike) -> str:
  """What to do about a run that is damaged beyond its results."""
  return f"delete {os.fspath(folder)} to train the run anew"


def fingerprint(images: np.ndarray) -> str:
  """A short text that is another one for other images."""
  return f"crc32 {zlib.crc32(np.ascontiguousarray(images)):08x}"


def settings_from_json(values: dict[str, Any]) -> Settings:
  """Settings from what `dataclasses.asdict` and JSON made of them.

  Raises:
    TypeError: for a setting that does not exist, or a value of another type.
    ValueError: for a value that is not accepted.
  """
  values = {
    k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
  }
  return Settings(**values)


def build_network(settings: Settings) -> networks.SpatialTransformerNetwork:
  """Makes the network of a run, with its initial parameters.

  Raises:
    ValueError: see `abstract_network`.
  """
  abstract_network(settings)  # nothing is allocated for one too large
  make = _initialiser(dataclasses.replace(settings, seed=0))
  return nnx.merge(*make(steps.random_key(settings.seed, "initialise")))


MOST_PARAMETERS = 2**31 - 1
"""Most parameters of a network; arrays are indexed in int32."""


def abstract_network(
  settings: Settings,
) -> networks.SpatialTransformerNetwork:
  """The network of a run in shapes alone: to check it, and to count.

  Raises:
    ValueError: for a network that the images are too small for, with a
      placement deeper than its blocks, or of more than `MOST_PARAMETERS`.
  """
  network = nnx.eval_shape(lambda: _network(settings, jax.random.key(0)))
  count = networks.count_parameters(network)["total"]
  if count > MOST_PARAMETERS:
    raise ValueError(
      f"width={settings.width:g} and"
      f" localisation_width={settings.localisation_width:g} make a"
      f" {settings.network} of {count:.3g} parameters; accepted: at most"
      f" {MOST_PARAMETERS:,}; take smaller widths"
    )
  return network


@functools.lru_cache(maxsize=32)
def _initialiser(settings: Settings) -> Callable:
  """From a key to the parts of a network; compiled once for all seeds.

  On CPU with no optimisation, which would take ten times as long as it saves:
  it runs once.
  """
  on_cpu = jax.default_backend() == "cpu"
  return jax.jit(
    lambda key: nnx.split(_network(settings, key)),
    compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
  )


def _network(
  settings: Settings, key: jax.Array
) -> networks.SpatialTransformerNetwork:
  gradient = settings.localisation_scheme == "gradient"
  return networks.create(
    settings.network,
    settings.dataset,
    settings.perturbation,
    width=settings.width,
    localisation_width=settings.localisation_width,
    dropout=settings.dropout,
    shrink=settings.shrink,
    family=settings.family,
    localisation=settings.localisation,
    padding=settings.padding,
    batch_norm=settings.batch_norm,
    theta_gradient=settings.localisation_lr if gradient else 1.0,
    rngs=nnx.Rngs(key),
  )


def num_steps(settings: Settings, num_images: int) -> int:
  """How many steps a run takes in all.

  Raises:
    ValueError: if a batch is larger than the training set, or the steps exceed
      int32, in which they are counted.
  """
  per_epoch = programs.steps_per_epoch(num_images, settings.batch_size)
  total = per_epoch * settings.epochs
  if total > _MOST[int]:
    raise ValueError(
      f"epochs={settings.epochs} of {per_epoch} steps each make {total:,}"
      f" steps; accepted: at most {_MOST[int]:,} steps in all"
    )
  return total


def build_program(
  settings: Sequence[Settings],
  images: np.ndarray,
  devices: Sequence[jax.Device] | None = None,
) -> tuple[programs.Program, steps.TrainState]:
  """The compiled loops of runs, and their states before the first step.

  Args:
    settings: of runs that differ in their seed alone.
    images: the training images, uint8.
    devices: see `programs.Program`.

  Raises:
    ValueError: see `num_steps` and `abstract_network`.
  """
  common = settings[0]
  total = num_steps(common, len(images))
  per_epoch = total // common.epochs
  group = common.localisation_scheme == "group"
  later = [per_epoch * epoch for epoch in common.more_iterations]
  optimiser = steps.make_optimiser(
    common.optimiser,
    common.learning_rate,
    total,
    placements.parse(common.network),
    schedule=common.schedule,
    localisation_lr=common.localisation_lr if group else 1.0,
    before_lr=common.before_lr,
    halvings=later if group else (),
  )
  built = [build_network(member) for member in settings]
  initial = [steps.init_state(network, optimiser) for network in built]
  gradient = built[0].theta_gradient
  phases = [
    steps.grown(
      built[0],
      more,
      theta_gradient=gradient if group else gradient / 2**more,
    )
    for more in range(1, len(later) + 1)
  ]
  mean, std = steps.normalisation(common.dataset, common.perturbation, images)
  recipe = steps.Recipe(
    initial[0][0],
    optimiser,
    common.perturbation,
    mean,
    std,
    common.batch_size,
    common.shrink,
    tuple(zip(later, phases, strict=True)),
  )
  cluttered = perturbations.PERTURBATIONS[common.perturbation].cluttered
  program = programs.Program(
    recipe,
    [member.seed for member in settings],
    images if cluttered else None,
    devices,
  )
  return program, programs.stacked(*(state for _, state in initial))


def network_of(
  run: Run, images: np.ndarray, *, trained: bool = True
) -> tuple[networks.SpatialTransformerNetwork, steps.Recipe]:
  """The network of a run, to be looked into.

  Args:
    run: with a checkpoint, where it is to be the trained one.
    images: the training images, uint8.
    trained: as the last checkpoint has it, instead of before the first step.

  Returns:
    The network, and the recipe whose `prepare` makes its images.

  Raises:
    RunError: where there is no checkpoint, or none that can be read.
  """
  program, states = build_program(
    [run.settings], images, jax.local_devices()[:1]
  )
  state = programs.member(states, 0)
  if trained:
    if not run.saved_step():
      raise RunError(f"{run.path} has no checkpoint to read the network from")
    state = run.last_state(state)
  recipe = program.recipe
  return nnx.merge(recipe.graphdef, state.params, state.stats), recipe


def _leaves(state: steps.TrainState) -> dict[str, np.ndarray]:
  """The arrays of a state by their path in it: a layout that can be read."""
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
