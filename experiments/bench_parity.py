"""Compares warps on JAX's device with the CPU and torch, and with themselves.

  python -m experiments.bench_parity

Values and gradients of warps by random affine transforms, of images and
volumes, by each method, padding and data type: against torch in float64, or
where it has none, stnjax on the CPU in float64. Then whether the gradient of an
image has the same bits in each run, by default and with sums in one order
(`jax.jit(..., compiler_options={"xla_gpu_deterministic_ops": True})`). Writes a
table, bench_parity.md, and every error, bench_parity.json; fails if an error
exceeds 2e-4 in float32, or 2e-2 in bfloat16, of the largest number compared.
"""

import jax

from experiments.bench import parity, peers, results
from experiments.lib import cli, hardware


def main() -> None:
  _OUTPUT.prepare()
  rows = list(parity.measure_all(parity.cases()))
  orders = {"any order": {}}
  if jax.default_backend() == "gpu":
    orders["one order"] = peers.ONE_ORDER
  same = {name: parity.repeats(options) for name, options in orders.items()}
  machine = hardware.machine(jax.devices()[:1], peers.PACKAGES)
  failed = parity.failed(rows)
  values = {"machine": machine, "same_bits": same, "rows": rows}
  text = parity.report(values)
  print(text)
  _OUTPUT.write({**values, "failed": failed}, text)
  if failed:
    raise ValueError(f"{len(failed)} errors are too large: {'; '.join(failed)}")


if __name__ == "__main__":
  _OUTPUT = results.Output("bench_parity")
  cli.run(main)
