"""Times warps against other libraries, on the CPU or GPU that JAX uses.

  python -m experiments.bench_sampling

Other methods and paddings, and volumes, which have one more size:

  python -m experiments.bench_sampling --method=cubic --method=nearest
  python -m experiments.bench_sampling --padding=border --padding=reflection
  python -m experiments.bench_sampling --shapes=2x64x64x64x1,2x48x48x48x4
  python -m experiments.bench_sampling --shapes=1x1080x1920x3 --dtype=uint8

Warps batches by random affine transforms with stnjax and with every peer that
is installed (torch, jax.scipy's map_coordinates, dm_pix, kornia, and forward
OpenCV; the extra `bench` brings them), each in its fastest memory layout.
Checks first that all results agree. Writes tables, bench_sampling.md, and every
measurement, bench_sampling.json. Takes about 6 minutes on 2 CPU cores.

Times: the implementations take turns, in a new random order each round. A turn
is a pause, a call that wakes up the implementation's threads, and a timed call.
A ratio is the peer's time over stnjax's in the same round: median over the
rounds, with quartiles; above 1 stnjax is faster. Two peers are not libraries.
"copy" copies the batch: its ratio is the share of the memory bandwidth that a
forward warp reaches. "deterministic" is stnjax on GPU with sums in one order
(`jax.jit(..., compiler_options={"xla_gpu_deterministic_ops": True})`). On GPU a
call computes 20 warps one after another, in one program, and waits for the
last; torch does so in one CUDA graph. The time of a warp is then that of its
kernels and of their launches by the GPU, as in a training step, and not that of
a call from Python, which --in_a_row=1 measures. Memory: the peak beyond what
was in use before the call, in a fresh process.
"""

from absl import flags
import jax

from experiments.bench import peers, sampling, shapes, timing
from experiments.bench.results import Output
from experiments.lib import cli, hardware


def main() -> None:
  batches = shapes.parse(_SHAPES.value, volumes=True)
  chosen = sampling.chosen_peers(_PEERS.value)
  methods = cli.each_once("method", _METHODS.value)
  dtypes = cli.each_once("dtype", _DTYPES.value)
  paddings = cli.each_once("padding", _PADDINGS.value)
  if not _COMPILED.value:
    peers.without_compiler()
  _OUTPUT.prepare()
  on_cpu = jax.default_backend() == "cpu"
  in_a_row = _IN_A_ROW.value or (1 if on_cpu else 20)
  machine = hardware.machine(jax.devices()[:1], peers.PACKAGES)
  for rows in sampling.measure_all(
    batches,
    methods,
    dtypes,
    paddings,
    chosen,
    rounds=_ROUNDS.value,
    in_a_row=in_a_row,
    with_memory=_MEMORY.value,
  ):
    text = sampling.report(rows)
    values = {"machine": machine, "in_a_row": in_a_row, "rows": rows}
    _OUTPUT.write(values, text)
  print(f"\n{text}")


if __name__ == "__main__":
  _SHAPES = shapes.define_flag(
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "32x224x224x3"]
  )
  _METHODS = flags.DEFINE_multi_enum(
    "method", ["linear"], peers.METHODS, "Interpolation; can be repeated."
  )
  _DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    ["float32"],
    peers.DTYPES,
    "Data type of the images; can be repeated.",
  )
  _PADDINGS = flags.DEFINE_multi_enum(
    "padding", ["zeros"], peers.PADDINGS, "What is outside; can be repeated."
  )
  _PEERS = flags.DEFINE_list(
    "peers",
    None,
    f"Peers: some of {', '.join(peers.PEERS)}. Default: all available ones.",
  )
  _ROUNDS = timing.define_rounds(21)
  _IN_A_ROW = flags.DEFINE_integer(
    "in_a_row",
    None,
    "Warps of a timed call, which waits for the last. Default: 1 on CPU, 20 on"
    " GPU.",
    lower_bound=1,
  )
  _MEMORY = flags.DEFINE_boolean(
    "memory", True, "Measure peak memory, in a process per implementation."
  )
  _COMPILED = flags.DEFINE_boolean(
    "compiled", True, "Use the C++ sampler if it is compiled."
  )
  _OUTPUT = Output("bench_sampling")
  cli.run(main)
