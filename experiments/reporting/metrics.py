"""Tables of a group's results, with a line on the meaning of each metric."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.lib.tables import Table
from experiments.reporting import names
from experiments.reporting.finished import Finished
from experiments.reporting.groups import Group

UNKNOWN = "–"
_NAN = float("nan")


def results(group: Group) -> Table:
  """Parameters, errors, invariance, residuals and times by network.

  Args:
    group: Runs that differ in network and seed alone. Columns that need several
      passes over the images are there if it has them, and a cell is a dash if a
      run of an older version did not measure it.
  """
  several = _has_passes(group)
  heading = [
    "network",
    "parameters",
    "localisation parameters",
    "error (%)",
    *["same answer (%)"] * several,
    *_residual_labels(group),
    "seeds",
    "seconds per epoch",
    "peak memory (MB)",
  ]
  return Table(heading, [_row(*item, group) for item in group.members.items()])


def _has_passes(group: Group) -> bool:
  """Whether every image is evaluated under several perturbations."""
  return group.settings["eval_passes"] > 1


def _residual_labels(group: Group) -> Iterator[str]:
  for axis in group.axes.values():
    yield names.residual(axis, "class")
    if _has_passes(group):
      yield names.residual(axis, "image")


def _row(network: str, runs: Sequence[Finished], group: Group) -> list[str]:
  found = [run.results for run in runs]
  parameters = found[0]["parameters"]
  several = _has_passes(group)
  fields = ("std", "by_image") if several else ("std",)
  same = [100 * results.get("same_answer", _NAN) for results in found]
  return [
    network,
    f"{parameters['total']:,}",
    f"{parameters['localisation']:,}",
    spread([100 * results["error"] for results in found], 2),
    *[spread(same, 2)] * several,
    *(
      spread([run.alignment.get(axis, {}).get(field, _NAN) for run in runs], 2)
      for axis in group.axes
      for field in fields
    ),
    str(len(runs)),
    f"{np.mean([results['seconds_per_epoch'] for results in found]):.1f}",
    f"{max(results['peak_memory_mb'] for results in found):,}",
  ]


def explanations(group: Group) -> Iterator[str]:
  """Yields a line on each metric of `results`."""
  yield "Mean ± standard deviation over the seeds, and their range."
  if _has_passes(group):
    yield (
      "Same answer: percentage of the test images that get the same predicted"
      f" class in all {group.settings['eval_passes']} passes, each of which"
      " perturbs the image anew. 100 is an invariant answer, right or wrong."
    )
  if not group.axes:
    return
  yield (
    "Residual by class: standard deviation of true plus predicted pose about"
    " the mean of the class. 0 if each class is brought to one pose"
    f"{_identity(group, 'none')}."
  )
  if _has_passes(group):
    yield (
      "Residual by image: the same about the mean of the image over its passes."
      " 0 if all perturbed versions of an image are brought to one pose, even"
      " if the objects of a class differ in pose without perturbation"
      f"{_identity(group, 'none_by_image')}."
    )


def _identity(group: Group, field: str) -> str:
  """The score of an identity transformer, if it is known."""
  several = len(group.axes) > 1
  return _scores(
    {
      f"{axis.unit}" + f" ({names.in_words(name)})" * several: [
        run.alignment[name].get(field, _NAN)
        for runs in group.measured(name).values()
        for run in runs
      ]
      for name, axis in group.axes.items()
    }
  )


def _scores(found: Mapping[str, Sequence[float]]) -> str:
  """Means of scores of an identity transformer, by their unit, in words."""
  known = {unit: np.isfinite(values) for unit, values in found.items()}
  scores = [
    f"{np.mean(np.array(found[unit])[finite]):.3g} {unit}"
    for unit, finite in known.items()
    if finite.any()
  ]
  if not scores:
    return ""
  return f"; an identity transformer scores {' and '.join(scores)}"


def authors(group: Group) -> Iterator[str | Table]:
  """Yields the table of the authors' statistics, and what they are, if any."""
  measured = {
    network: runs
    for network, runs in group.members.items()
    if all(run.authors for run in runs)
  }
  if not measured:
    return
  axes = {
    name: found["unit"]
    for runs in measured.values()
    for run in runs
    for name, found in run.authors.items()
  }
  identity = _scores(
    {
      unit: [
        run.authors.get(name, {}).get("none", _NAN)
        for runs in measured.values()
        for run in runs
      ]
      for name, unit in axes.items()
    }
  )
  yield (
    "As the authors of the perturbation measure alignment, to compare with"
    " their publication; docs/metrics.md defines the differences. Spread:"
    " standard deviation of true plus predicted pose about the mean of the"
    " class, where the predicted pose is that of the transformer's first"
    f" run{identity}. Slope and intercept: line through predicted against true"
    " poses of all classes; slope -1 is perfect."
  )
  heading = ["network"]
  for name, unit in axes.items():
    words = names.in_words(name)
    heading += [f"{words} spread ({unit})", f"{words} slope"]
    heading += [f"{words} intercept ({unit})"]
  rows = [
    [
      network,
      *(
        spread([run.authors.get(name, {}).get(field, _NAN) for run in runs], 2)
        for name in axes
        for field in ("std", "slope", "intercept")
      ),
    ]
    for network, runs in measured.items()
  ]
  yield Table(heading, rows)


def spread(values: Sequence[float], digits: int) -> str:
  """Values in a cell: mean ± standard deviation (lowest to highest).

  Args:
    values: Values, one per seed.
    digits: Number of decimals.

  Returns:
    The text: of one value, that value; a dash if a value is not finite.
  """
  if not np.isfinite(values).all():
    return UNKNOWN
  if len(values) == 1:
    return f"{values[0]:.{digits}f}"
  low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
  deviation = np.std(values, ddof=1)
  return (
    f"{np.mean(values):.{digits}f} ± {deviation:.{digits}f} ({low} to {high})"
  )
