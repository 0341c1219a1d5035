"""Resizing of batches with antialiasing, against other libraries."""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import jax_warps, peers, shapes, timing
from experiments.lib import cli
from experiments.lib.tables import Table
import stnjax

DTYPES = ("float32", "uint8")

Row = dict[str, Any]
"""A measurement: shape, output_shape, dtype, pass, peer, seconds."""

Case = tuple[shapes.Shape, tuple[int, int]]
"""Shape of a batch, and height and width of the result."""

Passes = dict[str, Callable[[], Any]]
"""By pass, "forward" and "image" (with the image's gradient, not of bytes), a
call that returns when its result is there."""


def parse(values: Sequence[str]) -> list[Case]:
  """Reads the values of --cases, such as 1x1080x1920x3:224x224.

  Raises:
    ValueError: For another form, or a case that is given twice.
  """
  return [_parse(value) for value in cli.each_once("cases", values)]


def _parse(value: str) -> Case:
  batch, _, size = value.partition(":")
  if not re.fullmatch("[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", size):
    raise ValueError(
      f"--cases={value[:60]!r} is not a case; accepted:"
      " BATCHxHEIGHTxWIDTHxCHANNELS:HEIGHTxWIDTH, such as"
      " 1x1080x1920x3:224x224"
    )
  try:
    (shape,) = shapes.parse([batch])
  except ValueError as error:
    raise ValueError(f"--cases={value[:60]!r}: {error}") from None
  height, width = map(int, size.split("x"))
  return shape, (height, width)


def _in_jax(
  resize: Callable[[jax.Array], jax.Array], images: np.ndarray
) -> Passes:
  def f(image, unused):
    return resize(image)

  operands = jnp.asarray(images), jnp.zeros(())
  cotangent = jnp.ones(jax.eval_shape(f, *operands).shape)
  names = {"forward": "forward"}
  if images.dtype != np.uint8:
    names["image"] = "both"

  def call(compiled):
    return jax.block_until_ready(compiled(*operands, cotangent))

  return {
    name: functools.partial(call, jax.jit(jax_warps.program(f, which)))
    for name, which in names.items()
  }


def _of_stnjax(images: np.ndarray, size: tuple[int, int]) -> Passes:
  resize = functools.partial(stnjax.resize, output_shape=size, antialias=True)
  return _in_jax(resize, images)


def _of_jax(images: np.ndarray, size: tuple[int, int]) -> Passes:
  """`jax.image.resize` of floats, rounded where the images are bytes."""
  batch, _, _, channels = images.shape
  shape = batch, *size, channels

  def resize(image):
    floats = jax.image.resize(image.astype("float32"), shape, "linear")
    if image.dtype == jnp.uint8:
      floats = jnp.clip(jnp.round(floats), 0, 255)
    return floats.astype(image.dtype)

  return _in_jax(resize, images)


def _of_torch(images: np.ndarray, size: tuple[int, int]) -> Passes:
  """In the memory layout in which it is faster, channels last."""
  import torch  # optional

  from experiments.bench import torch_warps

  torch.set_num_threads(os.cpu_count() or 1)
  batch = torch.tensor(images).movedim(-1, 1).to(torch_warps.device())

  def resize(batch):
    return torch.nn.functional.interpolate(
      batch, size=size, mode="bilinear", antialias=True
    )

  def forward():
    with torch.no_grad():
      result = resize(batch)
    torch_warps.finish()
    return result.movedim(1, -1)

  def image():
    leaf = batch.detach().requires_grad_()
    result = resize(leaf)
    gradient = torch.autograd.grad(result, leaf, torch.ones_like(result))
    torch_warps.finish()
    return result, gradient

  passes: Passes = {"forward": forward}
  return passes if images.dtype == np.uint8 else passes | {"image": image}


_RESIZERS = {"stnjax": _of_stnjax, "torch": _of_torch, "jax.image": _of_jax}


def available() -> list[str]:
  """The implementations that can be timed, "stnjax" first."""
  with_torch = peers.find("torch").available()
  return [name for name in _RESIZERS if name != "torch" or with_torch]


def build(name: str, images: np.ndarray, size: tuple[int, int]) -> Passes:
  """The passes of an implementation, compiled by a first call.

  Args:
    name: One of `available`.
    images: `[B, H, W, C]`, float32 or uint8.
    size: Height and width of the result.
  """
  passes = _RESIZERS[name](images, size)
  for call in passes.values():
    call()
  return passes


def measure_all(
  cases: Sequence[Case], dtypes: Sequence[str], rounds: int
) -> Iterator[list[Row]]:
  """Measures every combination, and prints each before it starts.

  Yields:
    All measurements so far, after each combination.

  Raises:
    RuntimeError: If the result of an implementation differs from that of
      stnjax.
  """
  rows: list[Row] = []
  for (shape, size), dtype in itertools.product(cases, dtypes):
    print(f"{shapes.text(shape)} {shapes.text(size)} {dtype} ...", flush=True)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    built = {name: build(name, images, size) for name in available()}
    check_same_picture(built)
    for which in built["stnjax"]:
      calls = {name: passes[which] for name, passes in built.items()}
      for name, seconds in timing.in_turns(calls, rounds).items():
        case = {"shape": shape, "output_shape": size, "dtype": dtype}
        rows.append({**case, "pass": which, "peer": name, "seconds": seconds})
    yield rows


def check_same_picture(built: dict[str, Passes]) -> None:
  """Checks that implementations resize alike, but for rounding.

  Raises:
    RuntimeError: If the result of one differs from that of stnjax.
  """
  ours, *others = (
    np.asarray(passes["forward"](), float) for passes in built.values()
  )
  for name, theirs in zip(list(built)[1:], others, strict=True):
    difference = np.abs(theirs - ours).max()
    if difference > 1.01:  # of 255
      raise RuntimeError(
        f"{name} makes another picture: its pixels are off by up to"
        f" {difference:.3g} of 255"
      )


def table(rows: Sequence[Row]) -> Table:
  """Our time, and theirs over ours."""
  names = list(dict.fromkeys(row["peer"] for row in rows))
  by_case: dict[tuple, dict[str, Sequence[float]]] = {}
  for row in rows:
    case = (
      shapes.text(row["shape"]),
      shapes.text(row["output_shape"]),
      row["dtype"],
      row["pass"],
    )
    by_case.setdefault(case, {})[row["peer"]] = row["seconds"]
  lines = [
    [
      *case,
      f"{1e3 * np.median(seconds['stnjax']):.3g}",
      *(timing.ratio(seconds[name], seconds["stnjax"]) for name in names[1:]),
    ]
    for case, seconds in by_case.items()
  ]
  heading = ["batch", "to", "dtype", "pass", "stnjax (ms)"]
  heading += [f"{name} / stnjax" for name in names[1:]]
  return Table(heading, lines, 4)
