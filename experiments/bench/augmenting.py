"""Random affine augmentation of batches, against other libraries."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import itertools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import peers, shapes, timing
from experiments.lib.tables import Table
import stnjax
from stnjax import augmentation
from stnjax.registry import Registry

DTYPES = ("uint8", "float32")
ROTATION = 0.3  # radians, either way
SCALE = (0.8, 1.25)
TRANSLATION = 0.1  # of the image along each axis, either way

Row = dict[str, Any]
"""A measurement: shape, dtype, peer, seconds."""

Call = Callable[[], Any]
"""Augments its batch by new transforms, and returns when the result is there:
`[B, H, W, C]` in the dtype of the images."""


@dataclasses.dataclass(frozen=True)
class Augmenter:
  """A library that augments batches.

  Attributes:
    build: From images `[B, H, W, C]`, uint8 or float32, to a `Call`.
    library: Name in `peers.PEERS` of the library that it needs.
  """

  build: Callable[[np.ndarray], Call]
  library: str

  def available(self) -> bool:
    """Whether it can be timed on JAX's default backend."""
    return peers.PEERS[self.library].available()

  def takes(self, channels: int) -> bool:
    """Whether it augments images of that many channels."""
    return channels <= (peers.PEERS[self.library].max_channels or channels)


def stnjax_call(images: np.ndarray) -> Call:
  """One program that draws transforms and warps."""

  @jax.jit
  def augment(images, step):
    key = jax.random.fold_in(jax.random.key(0), step)
    theta = augmentation.random_affine(
      jax.random.split(key, len(images)),
      images.shape[1:3],
      rotation=ROTATION,
      scale=SCALE,
      translation=TRANSLATION,
    )
    return stnjax.warp(images, theta)

  on_device, steps = jnp.asarray(images), itertools.count()
  return lambda: augment(on_device, next(steps)).block_until_ready()


def draw_matrix(rng: np.random.Generator, height: int, width: int):
  """A random matrix for `cv2.warpAffine`, `[2, 3]`, as stnjax draws it."""
  import cv2  # OpenCV is optional

  middle = (width - 1) / 2, (height - 1) / 2
  angle = np.degrees(rng.uniform(-ROTATION, ROTATION))
  matrix = cv2.getRotationMatrix2D(
    middle, angle, np.exp(rng.uniform(*np.log(SCALE)))
  )
  shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)
  matrix[:, 2] += shift * (width, height)
  return matrix


def _opencv_loop(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  import cv2

  height, width = images.shape[1:3]
  warped = [
    cv2.warpAffine(image, draw_matrix(rng, height, width), (width, height))
    for image in images
  ]
  return np.stack(warped).reshape(images.shape)


def _opencv_call(images: np.ndarray) -> Call:
  rng = np.random.default_rng(0)
  return lambda: _opencv_loop(images, rng)


def _opencv_threads_call(images: np.ndarray) -> Call:
  """A share of the batch for each core."""
  count = os.cpu_count() or 1
  pool = concurrent.futures.ThreadPoolExecutor(count)
  shares = [share for share in np.array_split(images, count) if len(share)]
  rngs = np.random.default_rng(0).spawn(len(shares))
  return lambda: np.concatenate([*pool.map(_opencv_loop, shares, rngs)])


def _kornia_call(images: np.ndarray) -> Call:
  """Channels first, and floating while it computes, as kornia takes them."""
  import kornia.augmentation
  import torch

  from experiments.bench import torch_warps

  torch.set_num_threads(os.cpu_count() or 1)
  augment = kornia.augmentation.RandomAffine(
    degrees=float(np.degrees(ROTATION)),
    translate=(TRANSLATION, TRANSLATION),
    scale=SCALE,
    p=1.0,
  )
  batch = torch.tensor(images).movedim(-1, 1).contiguous()
  batch = batch.to(torch_warps.device())

  def call():
    with torch.no_grad():
      result = augment(batch.float())
      if batch.dtype == torch.uint8:
        result = result.round().to(torch.uint8)
    torch_warps.finish()
    return result.movedim(1, -1)

  return call


AUGMENTERS: Registry[Augmenter] = Registry("--peers")
"""Other libraries."""

for _name, _build, _library in (
  ("opencv", _opencv_call, "opencv"),
  ("opencv_threads", _opencv_threads_call, "opencv"),
  ("kornia", _kornia_call, "kornia"),
):
  AUGMENTERS.register(_name, Augmenter(_build, _library))


def build(name: str, images: np.ndarray) -> Call:
  """The call of "stnjax" or one of `AUGMENTERS`, compiled by a first one."""
  make = stnjax_call if name == "stnjax" else AUGMENTERS[name].build
  call = make(images)
  call()
  return call


def share_inside(name: str, shape: Sequence[int]) -> float:
  """Mean of augmented images of ones: what of a result is not fill."""
  ones = np.ones((max(64, shape[0]), *shape[1:3], 1), np.float32)
  return float(np.mean(np.asarray(build(name, ones)())))


def measure_all(
  batches: Sequence[shapes.Shape],
  dtypes: Sequence[str],
  chosen: Sequence[str],
  rounds: int,
) -> Iterator[list[Row]]:
  """Measures every combination, and prints each before it starts.

  Args:
    batches: Shapes to augment.
    dtypes: Data types of the images, of `DTYPES`.
    chosen: Names in `AUGMENTERS`.
    rounds: Number of times each call is timed.

  Yields:
    All measurements so far, after each combination.

  Raises:
    RuntimeError: If a library does not draw such transforms as the others.
  """
  rows: list[Row] = []
  for shape in batches:
    able = [name for name in chosen if AUGMENTERS[name].takes(shape[-1])]
    names = ["stnjax", *able]
    inside = {name: share_inside(name, shape) for name in names}
    for name, share in inside.items():
      if abs(share - inside["stnjax"]) > 0.05:
        raise RuntimeError(
          f"{name} draws other transforms: {share:.1%} of its images is inside,"
          f" of stnjax's {inside['stnjax']:.1%}"
        )
    for dtype in dtypes:
      print(f"{shapes.text(shape)} {dtype} ...", flush=True)
      images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
      calls = {name: build(name, images) for name in names}
      for name, seconds in timing.in_turns(calls, rounds).items():
        case = {"shape": shape, "dtype": dtype, "peer": name}
        rows.append({**case, "seconds": seconds})
      yield rows


def table(rows: Sequence[Row]) -> Table:
  """Our images per second, and their time over ours."""
  names = list(dict.fromkeys(row["peer"] for row in rows))
  by_case: dict[tuple, dict[str, Sequence[float]]] = {}
  for row in rows:
    case = tuple(row["shape"]), row["dtype"]
    by_case.setdefault(case, {})[row["peer"]] = row["seconds"]
  lines = []
  for (shape, dtype), seconds in by_case.items():
    rate = shape[0] / np.median(seconds["stnjax"])
    ratios = [
      timing.ratio(seconds[name], seconds["stnjax"]) if name in seconds else "–"
      for name in names[1:]
    ]
    lines.append([shapes.text(shape), dtype, f"{rate:,.0f}", *ratios])
  heading = ["batch", "dtype", "stnjax (images/s)"]
  heading += [f"{name} / stnjax" for name in names[1:]]
  return Table(heading, lines, 2)
