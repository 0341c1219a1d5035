"""Times imports and first calls in new processes.

  python -m experiments.bench_start

starts processes that import stnjax and warp an image twice, eagerly or by
`jax.jit`, and processes that do so with torch: `affine_grid` and `grid_sample`.
"jax alone" imports JAX and starts its backend, which stnjax needs. Compiled
programs are not cached on disk. Writes a table, bench_start.md, and every
measurement, bench_start.json. Takes about a minute on 2 CPU cores.

The programs take turns, in a new random order each round: medians over the
rounds, with quartiles.
"""

import importlib.util
import os

from absl import flags
import jax

from experiments.bench import starting, timing
from experiments.bench.results import Output
from experiments.lib import cli, hardware
from experiments.lib.tables import markdown


def main() -> None:
  names = list(starting.PROGRAMS)
  if importlib.util.find_spec("torch") is None:
    names.remove("torch")
  _OUTPUT.prepare()
  os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
  machine = hardware.machine(jax.devices()[:1], ["torch"])
  seconds = starting.measure(names, _ROUNDS.value, _SIDE.value)
  text = markdown(starting.table(seconds))
  _OUTPUT.write(
    {"machine": machine, "side": _SIDE.value, "seconds": seconds}, text
  )
  print(f"\n{text}")


if __name__ == "__main__":
  _SIDE = flags.DEFINE_integer(
    "side", 224, "Height and width of the image in pixels.", lower_bound=1
  )
  _ROUNDS = timing.define_rounds(11)
  _OUTPUT = Output("bench_start")
  cli.run(main)
