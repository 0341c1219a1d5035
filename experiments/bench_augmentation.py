"""Times random affine augmentation of batches against other libraries.

  python -m experiments.bench_augmentation

Each call draws a rotation up to 0.3 radians, a scale from 0.8 to 1.25 and a
translation up to 0.1 of the image for every image of a batch, and warps
linearly into zeros: bytes in, bytes out, or float32. stnjax does so in one
program on JAX's device (`augmentation.random_affine`, `warp`); on CPU, OpenCV's
`warpAffine` does in a loop over the images, and in such a loop per core
("opencv_threads"); kornia's `RandomAffine` on torch's device, where bytes are
floating while it computes. Checks first that all draw alike. Writes a table,
bench_augmentation.md, and every measurement, bench_augmentation.json. Takes
about half a minute on 2 CPU cores.

Times: the implementations take turns, in a new random order each round. A ratio
is the peer's time over stnjax's in the same round: median over the rounds, with
quartiles; above 1 stnjax is faster.
"""

from absl import flags
import jax

from experiments.bench import augmenting, peers, sampling, shapes, timing
from experiments.bench.results import Output
from experiments.lib import cli, hardware
from experiments.lib.tables import markdown


def main() -> None:
  batches = shapes.parse(_SHAPES.value)
  chosen = sampling.chosen_peers(_PEERS.value, augmenting.AUGMENTERS)
  dtypes = cli.each_once("dtype", _DTYPES.value)
  _OUTPUT.prepare()
  machine = hardware.machine(jax.devices()[:1], peers.PACKAGES)
  for rows in augmenting.measure_all(batches, dtypes, chosen, _ROUNDS.value):
    text = markdown(augmenting.table(rows))
    _OUTPUT.write({"machine": machine, "rows": rows}, text)
  print(f"\n{text}")


if __name__ == "__main__":
  _SHAPES = shapes.define_flag(["256x32x32x3", "64x224x224x3"])
  _DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    list(augmenting.DTYPES),
    augmenting.DTYPES,
    "Data type of the images; can be repeated.",
  )
  _PEERS = flags.DEFINE_list(
    "peers",
    None,
    f"Peers: some of {', '.join(augmenting.AUGMENTERS)}. Default: all available"
    " ones.",
  )
  _ROUNDS = timing.define_rounds(21)
  _OUTPUT = Output("bench_augmentation")
  cli.run(main)
