"""Figures of a group of runs, each with a file name and a caption."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
import numpy as np

from experiments.reporting import names
from experiments.reporting.finished import Finished
from experiments.reporting.groups import Group
from stnjax import evaluation, placement, plots
from stnjax.training.description import AxisDescription

_ALIKE_IN_SIZE = 2.0  # classes whose sizes differ by no larger factor
_MOST_SHOWN = 4  # networks whose warps while training fit on a screen
_ALIKE_AT_DEPTH_0 = ("STN-C", "STN-DL", "STN-SL")


class Captioned(NamedTuple):
  """A figure with a caption.

  Attributes:
    name: Stem of the name of its file.
    caption: Its caption.
    figure: The figure.
    folded: Heading under which a page folds it away; empty to show it.
  """

  name: str
  caption: str
  figure: Figure
  folded: str = ""


def figures(group: Group) -> Iterator[Captioned]:
  """Draws the figures that the runs of a group allow.

  Args:
    group: Runs that differ in network and seed alone.

  Yields:
    Images before and after the transformer, warps while training, poses along
    each axis, errors against depth and iterations, confusion matrices, accuracy
    against class size, learning curves.
  """
  transformers = {
    network: runs
    for network, runs in group.members.items()
    if placement.parse(network).depths
  }
  seed = _common_seed(transformers)
  if seed is not None:
    runs = {
      network: next(run for run in runs if run.settings.seed == seed)
      for network, runs in transformers.items()
    }
    arrays = {network: run.evaluation() for network, run in runs.items()}
    yield _before_and_after(arrays, seed)
    yield from _while_training(runs, arrays, seed)
    for axis in group.axes.values():
      along = {
        n: a for n, a in arrays.items() if axis.name in runs[n].alignment
      }
      if along:
        yield _poses(axis, along, seed)
  yield from error_lines(group.members)
  yield from _by_class(group)
  yield Captioned(
    "curves",
    "Learning curves: mean over the seeds, with their range as a band.",
    plots.learning_curves(_curves(group)),
  )


def _common_seed(members: Mapping[str, Sequence[Finished]]) -> int | None:
  """The smallest seed of all networks: they share its perturbations."""
  seeds = [{run.settings.seed for run in runs} for runs in members.values()]
  return min(set.intersection(*seeds), default=None) if seeds else None


def _before_and_after(
  arrays: Mapping[str, Mapping[str, np.ndarray]], seed: int
) -> Captioned:
  before = next(iter(arrays.values()))["before"]
  after = {network: kept["after"] for network, kept in arrays.items()}
  return Captioned(
    "before_after",
    "Perturbed images (input) and the same images warped by each network's"
    " transform: one column per class, one row per perturbation of the same"
    " image, or per image if nothing is perturbed. A network aligns if a column"
    " shows one pose. For networks that warp features (STN-C1, ...), the"
    " transform is applied to the input; for STN-UCN and DEF, the mean of the"
    f" transforms of all positions. Seed {seed}.",
    plots.before_and_after(before, after),
  )


def _while_training(
  runs: Mapping[str, Finished],
  arrays: Mapping[str, Mapping[str, np.ndarray]],
  seed: int,
) -> Iterator[Captioned]:
  """Draws what networks make of images over the epochs, if they kept it."""
  kept = {network: run.gallery() for network, run in runs.items()}
  kept = {network: images for network, images in kept.items() if images}
  if not kept:
    return
  before = arrays[next(iter(kept))]["before"][0]
  yield Captioned(
    "while_training",
    "Warps while training: the first row of the figure above (input), and the"
    " same images warped by each network's transform after some epochs; the"
    " last row is the trained network. A network that learns to align moves"
    " each image from its pose in the input to that of its class. Seed"
    f" {seed}.",
    plots.warps_by_epoch(before, kept),
    folded="Warps while training" if len(kept) > _MOST_SHOWN else "",
  )


def _poses(
  axis: AxisDescription,
  arrays: Mapping[str, Mapping[str, np.ndarray]],
  seed: int,
) -> Captioned:
  true, predicted, labels = {}, {}, {}
  for network, kept in arrays.items():
    passes = kept[f"true_{axis.name}"]
    true[network] = passes.ravel()
    predicted[network] = kept[f"predicted_{axis.name}"].ravel()
    labels[network] = np.tile(kept["label"], len(passes))
  return Captioned(
    axis.name,
    f"Predicted against true {names.in_words(axis.name)}, minus the mean pose"
    " of the class. Dashed: slope -1, where the perturbation is undone; orange:"
    f" orthogonal regression. Seed {seed}.",
    plots.pose_density(axis, true, predicted, labels),
  )


def _by_class(group: Group) -> Iterator[Captioned]:
  """Draws confusions of few classes, and accuracies of classes that differ."""
  task = group.runs[0].task
  class_names = [task.class_name(k) for k in range(task.num_classes)]
  counts, sizes, accuracies = {}, {}, {}
  for network, runs in group.members.items():
    arrays = [run.evaluation() for run in runs]
    counts[network] = sum(
      evaluation.confusion(kept["predicted"], kept["label"], task.num_classes)
      for kept in arrays
    )
    totals = counts[network].sum(axis=1)
    sizes[network] = totals / sum(len(kept["predicted"]) for kept in arrays)
    right = np.diagonal(counts[network])
    accuracies[network] = right / np.where(totals, totals, 1)
  answers = "answers" if task.heads > 1 else "images"
  if task.num_classes <= plots.MOST_CLASSES:
    yield Captioned(
      "confusion",
      "Confusion matrices: percentage of the test"
      f" {answers} of each true class (row) by predicted class (column), over"
      " all passes and seeds. A dark diagonal is a low error; other dark cells"
      " are classes that a network confuses.",
      plots.confusion(counts, class_names),
    )
  if any(_differ(size) for size in sizes.values()):
    yield Captioned(
      "class_sizes",
      "Accuracy of each class against its number of test"
      f" {answers}, over all passes and seeds: a dot for each class, and the"
      " mean of each octave of sizes. A line that rises shows that rare classes"
      " are recognised worse.",
      plots.accuracy_by_size(sizes, accuracies),
    )


def _differ(sizes: np.ndarray) -> bool:
  """Whether some class has more than twice the images of another."""
  some = sizes[sizes > 0]
  return some.max() > _ALIKE_IN_SIZE * some.min()


def error_lines(
  members: Mapping[str, Sequence[Finished]],
) -> Iterator[Captioned]:
  """Draws errors against depth and iterations, where runs differ in them."""
  depths, iterations, baseline = errors_by_placement(members)
  if depths:
    yield Captioned(
      "depth",
      "Error against the depth of the placement: mean and standard deviation"
      " over the seeds, which are dots. At depth 0, STN-C, STN-DL and STN-SL"
      " are the same network.",
      plots.error_lines("depth", depths, baseline),
    )
  if iterations:
    yield Captioned(
      "iterations",
      "Error against the number of iterations: mean and standard deviation over"
      " the seeds, which are dots.",
      plots.error_lines("iterations", iterations, baseline),
    )


Lines = dict[str, dict[int, list[float]]]


def errors_by_placement(
  members: Mapping[str, Sequence[Finished]],
) -> tuple[Lines, Lines, list[float]]:
  """Errors in percent against the depth and the number of iterations.

  Args:
    members: Runs by network.

  Returns:
    Errors of every kind by depth, errors of every kind and depth by number of
    iterations, both only with several points, and those of the CNN.
  """
  depths: Lines = {}
  iterations: Lines = {}
  baseline: list[float] = []
  for network, runs in members.items():
    errors = [100 * run.results["error"] for run in runs]
    parsed = placement.parse(network)
    if network == "CNN":  # not GCNN or others without a transformer
      baseline += errors
    elif len(set(parsed.depths)) == 1:
      depth, kind = parsed.depths[0], parsed.prefix
      count = len(parsed.depths) + len(runs[0].settings.more_iterations)
      # Two names can be one network: STN-SL1x2 and STN-SL1,1.
      line = iterations.setdefault(f"{kind}{depth}", {})
      line.setdefault(count, []).extend(errors)
      if count == 1:
        alike = depth == 0 and kind in _ALIKE_AT_DEPTH_0
        for name in _ALIKE_AT_DEPTH_0 if alike else (kind,):
          depths.setdefault(name, {}).setdefault(depth, []).extend(errors)
  return _several(depths), _several(iterations), baseline


def _several(lines: Lines) -> Lines:
  """Lines of more than one point."""
  return {name: line for name, line in lines.items() if len(line) > 1}


def _curves(group: Group) -> dict[str, dict[str, list[np.ndarray]]]:
  """Metrics over epochs by label and network, one array per seed."""
  curves = {
    "error (%)": _curve(group.members, lambda line: 100 * line["error"])
  }
  for name, axis in group.axes.items():
    curves[names.residual(axis, "class")] = _curve(
      group.measured(name), lambda line, name=name: line["alignment"][name]
    )
  curves["training loss"] = _curve(
    group.members, lambda line: line["train_loss"]
  )
  return curves


def _curve(
  members: Mapping[str, Sequence[Finished]], value: Callable[[dict], float]
) -> dict[str, list[np.ndarray]]:
  return {
    network: [np.array([value(line) for line in run.metrics]) for run in runs]
    for network, runs in members.items()
  }
