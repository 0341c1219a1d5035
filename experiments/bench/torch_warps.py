"""Warps of torch and kornia, and their passes."""

from collections.abc import Callable, Sequence
import functools
import os
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from stnjax import transforms

MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
"""Methods, and what torch and kornia call them."""


def device() -> str:
  """The kind of device that JAX computes on, as torch calls it."""
  return "cpu" if jax.default_backend() == "cpu" else "cuda"


def finish() -> None:
  """Waits until the device has computed everything."""
  if device() == "cuda":
    torch.cuda.synchronize()


def torch_warp(
  images: torch.Tensor,
  theta: torch.Tensor,
  mode: str = "bilinear",
  padding: str = "zeros",
) -> torch.Tensor:
  """Warps `[B, C, H, W]` by `[B, 2, 3]`, or volumes by `[B, 3, 4]`."""
  grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
  return functional.grid_sample(
    images, grid, mode=mode, padding_mode=padding, align_corners=False
  )


def kornia_warp(
  images: torch.Tensor, matrix: torch.Tensor, mode: str, padding: str
) -> torch.Tensor:
  """Warps `[B, C, H, W]` by `[B, 2, 3]`, from input to output, in pixels."""
  from kornia.geometry import transform

  size = images.shape[2:]
  return transform.warp_affine(images, matrix, size, mode, padding_mode=padding)


def kornia_matrix(theta: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Kornia's matrix of theta; it inverts the matrix in each call."""
  return np.asarray(transforms.to_pixels(transforms.invert(theta), size))


def passes(
  peer: str,
  inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
  method: str,
  dtype: str,
  padding: str = "zeros",
  in_a_row: int = 1,
) -> dict[str, Callable[[], Any]]:
  """The passes of a warp as calls that return when their result is there.

  Args:
    peer: "torch" or "kornia".
    inputs: Image, theta and the cotangent of the result, channels last.
    method: Method of interpolation.
    dtype: Data type of the images and, as torch's grids have that of the
      images, of theta.
    padding: What is outside.
    in_a_row: Number of times that a call computes the warp; on GPU as one CUDA
      graph.
  """
  torch.set_num_threads(os.cpu_count() or 1)
  image, theta, cotangent = inputs
  if peer == "kornia":
    theta = kornia_matrix(theta, image.shape[1:3])
  warp = {"torch": torch_warp, "kornia": kornia_warp}[peer]
  warp = functools.partial(warp, mode=MODES[method], padding=padding)
  image, cotangent = (
    torch.tensor(x).movedim(-1, 1).contiguous() for x in (image, cotangent)
  )
  image, theta, cotangent = (
    x.to(device(), getattr(torch, dtype))
    for x in (image, torch.tensor(theta), cotangent)
  )

  def forward():
    with torch.no_grad():
      return warp(image, theta).movedim(1, -1)

  def backward(*names):
    leaves = {"image": image, "theta": theta}
    leaves |= {name: leaves[name].detach().requires_grad_() for name in names}
    result = warp(leaves["image"], leaves["theta"])
    wanted = [leaves[name] for name in names]
    return torch.autograd.grad(result, wanted, cotangent)

  once = {
    "forward": forward,
    "theta": functools.partial(backward, "theta"),
    "both": functools.partial(backward, "image", "theta"),
  }
  return {name: _call(f, in_a_row) for name, f in once.items()}


def _call(once: Callable[[], Any], times: int) -> Callable[[], Any]:
  """A call that computes several times and waits for the last result."""

  def compute():
    for _ in range(times - 1):
      once()
    return once()

  if device() == "cuda" and times > 1:
    compute = _graph(compute)

  def call():
    result = compute()
    finish()
    return result

  return call


def _graph(compute: Callable[[], Any]) -> Callable[[], Any]:
  """Captures what is computed in a CUDA graph, which launches it at once."""
  stream = torch.cuda.Stream()
  stream.wait_stream(torch.cuda.current_stream())
  with torch.cuda.stream(stream):
    compute()  # what is set up by a first call cannot be captured
  torch.cuda.current_stream().wait_stream(stream)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    result = compute()

  def replay():
    graph.replay()
    return result

  return replay
