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
  images: torch.Tensor, matrix: torch.Tensor, mode: str
) -> torch.Tensor:
  """Warps `[B, C, H, W]` by `[B, 2, 3]`, from input to output, in pixels."""
  from kornia.geometry import transform

  return transform.warp_affine(images, matrix, images.shape[2:], mode=mode)


def kornia_matrix(theta: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Kornia's matrix of theta; it inverts the matrix in each call."""
  return np.asarray(transforms.to_pixels(transforms.invert(theta), size))


def passes(
  peer: str,
  inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
  method: str,
  dtype: str,
) -> dict[str, Callable[[], Any]]:
  """The passes of a warp as calls that return when their result is there.

  Args:
    peer: "torch" or "kornia".
    inputs: Image, theta and the cotangent of the result, channels last.
    method: Method of interpolation.
    dtype: Data type of the images and, as torch's grids have that of the
      images, of theta.
  """
  torch.set_num_threads(os.cpu_count() or 1)
  image, theta, cotangent = inputs
  if peer == "kornia":
    theta = kornia_matrix(theta, image.shape[1:3])
  warp = {"torch": torch_warp, "kornia": kornia_warp}[peer]
  warp = functools.partial(warp, mode=MODES[method])
  image, cotangent = (
    torch.tensor(x).movedim(-1, 1).contiguous() for x in (image, cotangent)
  )
  image, theta, cotangent = (
    x.to(device(), getattr(torch, dtype))
    for x in (image, torch.tensor(theta), cotangent)
  )

  def forward():
    with torch.no_grad():
      result = warp(image, theta).movedim(1, -1)
    finish()
    return result

  def backward(*names):
    leaves = {"image": image, "theta": theta}
    leaves |= {name: leaves[name].detach().requires_grad_() for name in names}
    result = warp(leaves["image"], leaves["theta"])
    wanted = [leaves[name] for name in names]
    gradients = torch.autograd.grad(result, wanted, cotangent)
    finish()
    return gradients

  return {
    "forward": forward,
    "theta": functools.partial(backward, "theta"),
    "both": functools.partial(backward, "image", "theta"),
  }
