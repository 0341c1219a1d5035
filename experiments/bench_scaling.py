"""Times warps of growing batch, size and number of channels.

  python -m experiments.bench_scaling

Times linear warps by random affine transforms, forward and with both gradients,
along each axis separately, with stnjax and, if it is installed, torch; and
single images that are blurred as they are shrunk by 4, `antialias=True`. A
fixed cost plus a cost per value gives a line that is first flat and then
straight, with slope 1 on logarithmic axes; the table has the slope of the upper
half.
Writes bench_scaling.md, bench_scaling.png and every measurement,
bench_scaling.json. Takes about 2 minutes on 2 CPU cores.
"""

import jax

from experiments.bench import peers, scaling, timing
from experiments.bench.results import Output
from experiments.lib import cli, hardware, tables
from stnjax import plots


def main() -> None:
  _OUTPUT.prepare()
  rows = []
  for axis, shapes in scaling.AXES.items():
    print(f"{axis} ...", flush=True)
    rows += scaling.measure(
      axis, shapes, scaling.libraries(axis), _ROUNDS.value
    )
  lines = scaling.lines(rows)
  text = tables.markdown(scaling.table(lines))
  print(f"{text}\n")
  machine = hardware.machine(jax.devices()[:1], peers.PACKAGES)
  _OUTPUT.write({"machine": machine, "rows": rows}, text, plots.scaling(lines))


if __name__ == "__main__":
  _ROUNDS = timing.define_rounds(11)
  _OUTPUT = Output("bench_scaling", ("json", "md", "png"))
  cli.run(main)
