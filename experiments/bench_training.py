"""Times training against the same networks in plain torch, on CPU or GPU.

  python -m experiments.bench_training
  python -m experiments.bench_training --protocol=paper --seeds=10 --steps=200

Trains networks with stnjax's training loop and with torch (which the extra
`bench` brings): the same random perturbation of the images, normalisation,
network, loss, optimiser, schedule, batch and running sums. The protocols:
"sweep", that of README's first command (experiments.sweep --family=rotation
--epochs=15), about 3 minutes on 2 cores; "paper", the paper's rotated MNIST
with 64 + 64 filters and 640 epochs (experiments.paper --preset=rotation
--size=full), for GPUs; "cifar" and "house_numbers", the paper's networks for
these at full width, with the same settings as its presets but for the schedule
and initial values of house numbers:

  python -m experiments.bench_training --protocol=cifar --steps=2

Checks first, on the CPU, that torch's network has as many parameters and, from
the same weights, the same logits, also where its transforms are not the
identity. Writes a table, bench_training.md, and every measurement,
bench_training.json.

Times: of some steps, scaled to an epoch and to the whole protocol, without
compilation, evaluation and checkpoints. Few steps underrate stnjax, which draws
the order of an epoch in every dispatch; a run has fewer dispatches. Images are
the embedded digits, repeated, or random, 10,000 an epoch. The libraries take
turns, as in `bench_sampling`; the ratio is stnjax's time over torch's in the
same round: median over the rounds, with quartiles; below 1 stnjax is faster.
With --seeds, stnjax also trains that many seeds in one program, as the sweep
does. Torch uses its fused optimiser and channels_last, its faster memory
format; on GPU it selects convolution algorithms by timing them, as XLA does,
and both multiply in TF32. On CPU the machine must be quiet: torch's threads
spin while they wait, and are many times slower if another program runs. The
.json has the machine's load.
"""

import dataclasses

from absl import flags
import jax

from experiments.bench import peers, timing, training
from experiments.bench.results import Output
from experiments.lib import cli, hardware


def main() -> None:
  names = cli.each_once("networks", _NETWORKS.value)
  protocol = training.PROTOCOLS[_PROTOCOL.value]()
  changes = {"width": _WIDTH.value, "batch_size": _BATCH_SIZE.value}
  every = training.settings_of(protocol, names, _SEEDS.value, **changes)
  timed = {
    "steps": _STEPS.value,
    "channels_last": _CHANNELS_LAST.value,
    "torch_compile": _TORCH_COMPILE.value,
  }
  training.check_steps(protocol, every[0], _STEPS.value)
  _OUTPUT.prepare()
  settings = dataclasses.asdict(every[0])
  del settings["network"]
  about = {
    "machine": hardware.machine(jax.devices()[:1], peers.PACKAGES),
    "settings": settings,
    "protocol": _PROTOCOL.value,
    "images": protocol.images,
    **timed,
  }
  for rows in training.measure_all(
    protocol, every, seeds=_SEEDS.value, rounds=_ROUNDS.value, **timed
  ):
    text = training.report(rows, every[0].epochs)
    _OUTPUT.write({**about, "rows": rows}, text)
  print(f"\n{text}")


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_list(
    "networks",
    list(training.NETWORKS),
    "Networks: CNN; STN-C, STN-DL or STN-SL followed by one depth.",
  )
  _PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "sweep",
    list(training.PROTOCOLS),
    "Protocol of README's sweep, or of the paper: of its rotated MNIST (paper),"
    " rotated CIFAR-10 or house numbers.",
  )
  _WIDTH = flags.DEFINE_float(
    "width", None, "Factor on the filters. Default: the protocol's."
  )
  _BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images of a step. Default: the protocol's.", 1
  )
  _SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Seeds that stnjax also trains together.", 1, 1000
  )
  _STEPS = flags.DEFINE_integer("steps", 50, "Steps of a timed call.", 1)
  _CHANNELS_LAST = flags.DEFINE_boolean(
    "channels_last", True, "Use torch's memory format channels_last."
  )
  _TORCH_COMPILE = flags.DEFINE_boolean(
    "torch_compile", False, "Also train torch's network after torch.compile."
  )
  _ROUNDS = timing.define_rounds(9)
  _OUTPUT = Output("bench_training")
  cli.run(main)
