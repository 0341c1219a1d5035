"""Values and gradients of warps on a device, against the CPU and torch."""

from collections.abc import Iterator, Sequence
import concurrent.futures
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.bench import peers, torch_warps
from experiments.bench.results import sections
from experiments.lib.tables import Table
import stnjax
from stnjax.sampling.padding import UNFILLED

SHAPES = {2: (3, 33, 28, 5), 3: (2, 13, 12, 9, 2)}
"""Shapes of the batches, by their number of spatial axes."""

TOLERANCE = {"float32": 2e-4, "bfloat16": 2e-2}
"""Largest error by data type, relative to the largest number compared."""

_THREADS = 8  # XLA compiles in several threads

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]


def cases() -> list[Case]:
  """All that are compared: axes, method, padding and dtype.

  Those of volumes by many taps take long to compile: not with every padding.
  """
  names = ("axes", "method", "padding", "dtype")
  values = itertools.product(SHAPES, peers.METHODS, UNFILLED, peers.FLOATING)
  every = [dict(zip(names, chosen, strict=True)) for chosen in values]
  return [case for case in every if _is_compared(**case)]


def _is_compared(axes: int, method: str, padding: str, dtype: str) -> bool:
  if axes == 3 and method in ("cubic", "spline"):
    return (padding, dtype) in (("border", "float32"), ("wrap", "float32"))
  return dtype == "float32" or padding == "border"


def measure_all(chosen: Sequence[Case]) -> Iterator[Case]:
  """Compares each case with torch, or where that has it not, with the CPU.

  Args:
    chosen: Some of `cases()`.

  Yields:
    The case with "reference", "torch" or "stnjax on CPU", and by result,
    "values", "image" and "theta" for the gradients, the largest error relative
    to the largest number; None without such a gradient.
  """
  references = ["torch" if has_torch(**c) else "stnjax on CPU" for c in chosen]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    on_device = pool.map(here, chosen)
    expected = pool.map(
      lambda case: in_torch(case) if has_torch(**case) else on_the_cpu(case),
      chosen,
    )
    for case, name, *pair in zip(
      chosen, references, on_device, expected, strict=True
    ):
      yield {**case, "reference": name, **errors(*pair)}


def has_torch(axes: int, method: str, padding: str, dtype: str) -> bool:
  """Whether torch warps so."""
  del dtype
  known = method in torch_warps.MODES and padding != "wrap"
  return known and (axes, method) != (3, "cubic")


def errors(ours: Arrays, expected: Arrays) -> dict[str, float | None]:
  """The largest errors, relative to the largest number compared."""

  def error(name):
    if name not in ours:
      return None
    difference = np.abs(ours[name].astype(float) - expected[name]).max()
    return float(difference / np.abs(expected[name]).max())

  return {name: error(name) for name in ("values", "image", "theta")}


def inputs(case: Case) -> tuple[np.ndarray, ...]:
  """A batch, a theta that reads far outside, and a cotangent.

  Image and cotangent are numbers of the case's data type.
  """
  image, theta, cotangent = peers.inputs(SHAPES[case["axes"]])
  theta[..., -1] += 0.4
  return *(_rounded(x, case) for x in (image, cotangent)), theta


def _rounded(values: np.ndarray, case: Case) -> np.ndarray:
  return values.astype(jnp.dtype(case["dtype"])).astype(np.float32)


def here(case: Case) -> Arrays:
  """Values and gradients on JAX's default device."""
  image, cotangent, theta = inputs(case)
  dtype = case["dtype"]
  return _in_jax(case, jnp.asarray(image, dtype), theta, cotangent)


def on_the_cpu(case: Case) -> Arrays:
  """Values and gradients on the CPU, in float64."""
  with (
    jax.enable_x64(True),
    jax.default_device(jax.local_devices(backend="cpu")[0]),
  ):
    return _in_jax(case, *(x.astype(float) for x in _reordered(case)))


def _reordered(case: Case) -> tuple[np.ndarray, ...]:
  image, cotangent, theta = inputs(case)
  return image, theta, cotangent


def _in_jax(case, image, theta, cotangent) -> Arrays:
  warp = functools.partial(
    stnjax.warp, method=case["method"], padding=case["padding"]
  )

  @jax.jit
  def run(image, theta, cotangent):
    values, vjp = jax.vjp(warp, image, theta)
    to_image, to_theta = vjp(cotangent.astype(values.dtype))
    return {"values": values, "image": to_image, "theta": to_theta}

  found = run(image, theta, cotangent)
  if case["method"] == "nearest":
    del found["theta"]
  return {name: np.asarray(array) for name, array in found.items()}


def in_torch(case: Case) -> Arrays:
  """Values and gradients in torch on the CPU, in float64."""
  method, mode = case["method"], torch_warps.MODES[case["method"]]
  image, theta, cotangent = (
    torch.tensor(x, dtype=torch.float64) for x in _reordered(case)
  )
  image = image.movedim(-1, 1).requires_grad_()
  theta.requires_grad_()
  values = torch_warps.torch_warp(image, theta, mode, case["padding"])
  wanted = [image, theta] if method != "nearest" else [image]
  found = torch.autograd.grad(values, wanted, cotangent.movedim(-1, 1))
  return {
    "values": values.detach().movedim(1, -1).numpy(),
    **{
      name: (gradient.movedim(1, -1) if name == "image" else gradient).numpy()
      for name, gradient in zip(("image", "theta"), found)
    },
  }


def repeats(options: dict[str, Any]) -> bool:
  """Whether the image's gradient has the same bits in each of ten runs.

  Args:
    options: `compiler_options` of `jax.jit`.
  """
  image, theta, cotangent = map(jnp.asarray, peers.inputs((8, 64, 64, 3)))
  theta = 0.1 * theta  # many additions to each pixel

  @functools.partial(jax.jit, compiler_options=options)
  def gradient(image, theta, cotangent):
    return jax.vjp(stnjax.warp, image, theta)[1](cotangent)[0]

  first, *rest = (
    np.asarray(gradient(image, theta, cotangent)) for _ in range(10)
  )
  return all(np.array_equal(first, other) for other in rest)


def report(values: dict[str, Any]) -> str:
  """The errors and whether sums repeat, as text.

  Args:
    values: "machine", see `hardware.machine`; "rows", see `measure_all`;
      "same_bits", by order of sums, see `repeats`.
  """
  machine = values["machine"]
  title = (
    f"Largest errors on {machine['device']}, jax {machine['packages']['jax']}"
  )
  lines = [sections({title: table(values["rows"])})]
  lines += [
    f"Gradient of an image with sums in {name}: the same bits in ten runs:"
    f" {'yes' if kept else 'no'}."
    for name, kept in values["same_bits"].items()
  ]
  return "\n\n".join(lines)


def table(rows: Sequence[Case]) -> Table:
  """The largest error over the paddings, for each other case."""
  groups: dict[tuple, list[Case]] = {}
  for row in rows:
    key = f"{row['axes']}-D", row["method"], row["dtype"], row["reference"]
    groups.setdefault(key, []).append(row)
  cells = [
    [*key, *(_largest(group, name) for name in ("values", "image", "theta"))]
    for key, group in groups.items()
  ]
  heading = ["axes", "method", "dtype", "reference", "values"]
  heading += ["gradient to the image", "gradient to theta"]
  return Table(heading, cells, text_columns=4)


def _largest(group: Sequence[Case], name: str) -> str:
  found = [row[name] for row in group if row[name] is not None]
  return f"{max(found):.1e}" if found else "–"


def failed(rows: Sequence[Case]) -> list[str]:
  """The cases whose error exceeds `TOLERANCE`, or is NaN."""
  return [
    f"{row['axes']}-D {row['method']} {row['padding']} {row['dtype']} against"
    f" {row['reference']}: {name} {row[name]:.2g}"
    for row in rows
    for name in ("values", "image", "theta")
    if row[name] is not None and not row[name] <= TOLERANCE[row["dtype"]]
  ]
