"""Starting a network from the last checkpoint of another run.

The stages and the head are taken, and must have the shapes of that run. The
modules of each depth, and batch norms behind transformers, are taken where that
run has them in the same shapes; the copied stages of STN-DL are else copied
from its stages. What is not taken keeps its initial values. The optimiser, the
step and all random draws begin as in a run without a warm start.
"""

from collections.abc import Mapping
import os
import re
from typing import NamedTuple

from etils import epath
import jax
import numpy as np

from stnjax import files
from stnjax.files import RunError
from stnjax.training import building, checkpoints, config, steps
from stnjax.training.settings import Settings

Arrays = Mapping[str, np.ndarray]

_CLASSIFIER = re.compile(r"\.(params|stats)\['(stages|head)'\]")
_SITE = re.compile(r"\.(?:params|stats)\['sites'\]\['([^']+)'\]\['([^']+)'\]")
_NORM = re.compile(r"\.(?:params|stats)\['norms'\]\['?([^'\]]+)")


class Source(NamedTuple):
  """The checkpoint that a network starts from.

  Attributes:
    path: Folder of the checkpoint.
    settings: Settings of its run.
    arrays: Arrays of its state by name, see `checkpoints.named_arrays`.
    checksum: SHA-256 of the arrays, hexadecimal.
  """

  path: epath.Path
  settings: Settings
  arrays: Arrays
  checksum: str


class Start(NamedTuple):
  """The start of a run.

  Attributes:
    state: State before the first step.
    checksum: Checksum of the source; empty without a warm start.
    report: Line that lists the parts taken; empty without a warm start.
  """

  state: steps.TrainState
  checksum: str = ""
  report: str = ""


def start(
  fresh: steps.TrainState, settings: Settings, setup: building.Setup
) -> Start:
  """The first state of a run, warm if its settings ask for it.

  Args:
    fresh: State of the run with initial values.
    settings: Settings of the run.
    setup: Objects that the settings name.

  Raises:
    RunError: If there is no run to start from, or it does not fit.
  """
  if not settings.warm_start:
    return Start(fresh)
  source = read(settings.warm_start, settings.seed)
  own, other = setup.backbone, _backbone(source.settings, setup)
  if other and own != other:
    raise RunError(
      f"warm_start: {source.path} is of a network with backbone={other!r},"
      f" this run has backbone={own!r}; accepted: a run with the same backbone"
    )
  state, report = warm_state(fresh, source)
  return Start(state, source.checksum, report)


def read(path: str, seed: int = 0) -> Source:
  """Reads the checkpoint to start from.

  Args:
    path: Folder of a finished run, whose last checkpoint is read, or of one
      checkpoint, local or `gs://`; `{seed}` in it stands for the seed.
    seed: Seed of the run that starts.

  Raises:
    RunError: If there is no finished run or no checkpoint, or it is damaged.
    ValueError: For a path that is neither local nor `gs://`.
  """
  given = files.place("warm_start", path.replace("{seed}", str(seed)))
  run, step = given, None
  if given.name.isdigit() and given.parent.name == "checkpoints":
    run, step = given.parent.parent, int(given.name)
  where = f"warm_start={os.fspath(given)!r}"
  accepted = "accepted: the folder of a finished run, or of a checkpoint in it"
  if not (run / config.NAME).exists():
    raise RunError(f"{where}: no run there; {accepted}")
  if step is None and not (run / "DONE").exists():
    raise RunError(f"{where}: the run there is not finished; {accepted}")
  settings = config.read(run).settings
  kept = checkpoints.Checkpoints(
    run / "checkpoints", f"warm-{settings.name}", [jax.process_index()]
  )
  step = step or kept.last_step()
  if not step or not (kept.folder / str(step)).exists():
    raise RunError(f"{where}: no checkpoint there; {accepted}")
  arrays = kept.read(step)
  return Source(
    kept.folder / str(step),
    settings,
    arrays,
    checkpoints.checksum(arrays).tobytes().hex(),
  )


def _backbone(settings: Settings, setup: building.Setup) -> str:
  """Name of a run's backbone; empty if its data set is another and names it."""
  if not settings.backbone and settings.dataset == setup.dataset.name:
    return setup.dataset.default_backbone(settings.perturbation)
  return settings.backbone


def warm_state(
  fresh: steps.TrainState, source: Source
) -> tuple[steps.TrainState, str]:
  """A state with the parameters and statistics of another run.

  Args:
    fresh: State with initial values.
    source: Checkpoint of the other run.

  Returns:
    The state, and a line that lists the parts taken.

  Raises:
    RunError: For a classifier with other parameters, or other shapes.
  """
  arrays = checkpoints.named_arrays(fresh)
  _check_classifier(arrays, source)
  chosen = {name: name for name in arrays if _CLASSIFIER.match(name)}
  taken, kept = ["stages", "head"], []
  for label, names in _parts(arrays).items():
    copies = {name: _of_classifier(name) for name in names}
    if _fits(arrays, source.arrays, {name: name for name in names}):
      chosen.update({name: name for name in names})
      taken.append(label)
    elif _fits(arrays, source.arrays, copies):
      chosen.update(copies)
      taken.append(f"{label} (from its stages)")
    else:
      kept.append(label)
  for name, other in chosen.items():
    arrays[name] = source.arrays[other]
  state = jax.tree.unflatten(jax.tree.structure(fresh), arrays.values())
  initial = f"; initial values: {', '.join(kept)}" if kept else ""
  return state, f"warm start from {source.path}: {', '.join(taken)}{initial}"


def _check_classifier(arrays: Arrays, source: Source) -> None:
  """Raises unless the stages and the head of the source have the same shapes.

  Raises:
    RunError: Naming the first parameter that differs.
  """
  own, other = (
    {name: array for name, array in some.items() if _CLASSIFIER.match(name)}
    for some in (arrays, source.arrays)
  )
  differing = sorted(own.keys() ^ other.keys())
  if differing:
    name = differing[0]
    has = "no" if name in own else "a"
    raise RunError(
      f"warm_start: {source.path} is of a network with another backbone: it"
      f" has {has} parameter {_words(name)}; accepted: a run with the same"
      " backbone"
    )
  for name, array in own.items():
    if array.shape != other[name].shape:
      raise RunError(
        f"warm_start: {_words(name)} has shape {other[name].shape} in"
        f" {source.path} and {array.shape} here; accepted: a run with the same"
        " backbone, width, classes and image size"
      )


def _parts(arrays: Arrays) -> dict[str, list[str]]:
  """Names of the arrays beyond the classifier, by part that is taken whole."""
  parts: dict[str, list[str]] = {}
  for name in arrays:
    if site := _SITE.match(name):
      depth, module = site.groups()
      what = "copied stages" if module == "stages" else module
      parts.setdefault(f"{what} of depth {depth}", []).append(name)
    elif norm := _NORM.match(name):
      parts.setdefault(f"batch norm {norm[1]}", []).append(name)
  return parts


def _of_classifier(name: str) -> str:
  """Name of the classifier's array that a copied one is a copy of."""
  return re.sub(r"\['sites'\]\['[^']+'\](?=\['stages'\])", "", name)


def _fits(own: Arrays, others: Arrays, names: Mapping[str, str]) -> bool:
  """Whether all named arrays are there, in the shapes of this run's."""
  return all(
    other in others and others[other].shape == own[name].shape
    for name, other in names.items()
  )


def _words(name: str) -> str:
  """Name of an array as a path of attributes: "stages.0.conv.kernel"."""
  parts = re.findall(r"\['([^']*)'\]|\[(\d+)\]", name)
  return ".".join(key or index for key, index in parts)
