"""Evaluates finished networks with more or fewer runs of the transformer.

  python -m experiments.iterations --workdir=runs --more=-1,0,1,2

The number of runs changes at test time alone: the same parameters, the same
test images under the same perturbations as at the end of training. Writes
iterations.json to each run's folder, and iterations.md to the workdir: error
and residual of each network by the number of runs. Networks without a
transformer, or whose transformer cannot be repeated, are left out and named.
About as long per number as a run's final evaluation.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection, tables
from experiments.reporting import analysing, iterating


def flagged() -> tuple[int, ...]:
  """The numbers of runs to add.

  Raises:
    ValueError: For numbers that cannot be used.
  """
  return cli.each_once("more", cli.integers("more", _MORE.value))


def main() -> None:
  more, load = flagged(), loading.once(_DATA_DIR.value)
  analysed = analysing.analyse(
    cli.WORKDIR.value,
    _ONLY.value,
    iterating.NAME,
    lambda run: iterating.measure(run, load, more),
  )

  def parts(group, number):
    del number
    table = iterating.table(analysed, group)
    print(f"{group.title}\n{tables.markdown(table)}", flush=True)
    return [iterating.EXPLANATION, table]

  path = analysing.write_page(analysed, iterating.NAME, iterating.TITLE, parts)
  print(f"written: {path}")
  running.raise_if_any(analysed.errors)


if __name__ == "__main__":
  _MORE = flags.DEFINE_list(
    "more",
    ["0", "1", "2"],
    "Numbers of runs of the transformer to add to those in training; negative"
    " numbers leave out the last ones, down to one run.",
  )
  _ONLY, _DATA_DIR = selection.define_finished()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main, check=flagged)
