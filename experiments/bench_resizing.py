"""Times resizing with antialiasing against other libraries.

  python -m experiments.bench_resizing

Resizes batches by `stnjax.resize(..., antialias=True)`, `jax.image.resize` and,
if it is installed, torch's `interpolate(mode="bilinear", antialias=True)`, all
of the same kernel; forward, and for floats with the gradient of the images. Of
bytes, torch rounds along one axis before the other. Checks first that all
results agree. Writes a table, bench_resizing.md, and every measurement,
bench_resizing.json. Takes about a minute on 2 CPU cores.

Times: the implementations take turns, in a new random order each round. A ratio
is the peer's time over stnjax's in the same round: median over the rounds, with
quartiles; above 1 stnjax is faster.
"""

from absl import flags
import jax

from experiments.bench import peers, resizing, timing
from experiments.bench.results import Output
from experiments.lib import cli, hardware
from experiments.lib.tables import markdown


def main() -> None:
  cases = resizing.parse(_CASES.value)
  dtypes = cli.each_once("dtype", _DTYPES.value)
  _OUTPUT.prepare()
  machine = hardware.machine(jax.devices()[:1], peers.PACKAGES)
  for rows in resizing.measure_all(cases, dtypes, _ROUNDS.value):
    text = markdown(resizing.table(rows))
    _OUTPUT.write({"machine": machine, "rows": rows}, text)
  print(f"\n{text}")


if __name__ == "__main__":
  _CASES = flags.DEFINE_list(
    "cases",
    [
      "256x64x64x3:32x32",
      "16x256x256x3:224x224",
      "1x1080x1920x3:224x224",
      "1x2048x2048x3:512x512",
      "1x512x512x3:1024x1024",
    ],
    "What to resize, and to which size: BATCHxHEIGHTxWIDTHxCHANNELS:"
    "HEIGHTxWIDTH.",
  )
  _DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    list(resizing.DTYPES),
    resizing.DTYPES,
    "Data type of the images; can be repeated.",
  )
  _ROUNDS = timing.define_rounds(21)
  _OUTPUT = Output("bench_resizing")
  cli.run(main)
