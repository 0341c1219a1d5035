"""Warps of this library and of others, compiled and ready to be timed."""

from collections.abc import Callable, Sequence
import functools
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import transforms

METHODS = ("nearest", "linear", "cubic", "spline")
PASSES = ("forward", "theta", "both")
PEERS = (
  "torch",
  "map_coordinates",
  "dm_pix",
  "kornia",
  "deterministic",
  "copy",
)
"""Other libraries; stnjax where XLA may add in one order only, on GPU; and the
copy of a batch, which moves as much as a warp forward."""

DTYPES = ("float32", "bfloat16")

ONE_ORDER = {"xla_gpu_deterministic_ops": True}
"""What has XLA add in one order on GPU: `compiler_options` of `jax.jit`."""

Passes = dict[str, Callable[[], Any]]  # by pass, a call that waits for its end


def inputs(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An image, a theta within a fifth of the identity, and a cotangent."""
  rng = np.random.default_rng(0)
  image, cotangent = rng.uniform(size=(2, *shape)).astype(np.float32)
  theta = np.eye(2, 3) + rng.uniform(-0.2, 0.2, (shape[0], 2, 3))
  return image, theta.astype(np.float32), cotangent


def installed(peer: str) -> bool:
  """Whether a peer can be timed where JAX computes."""
  if peer == "deterministic":
    return jax.default_backend() == "gpu"  # elsewhere the order is one always
  module = {"map_coordinates": "jax", "copy": "jax"}.get(peer, peer)
  if importlib.util.find_spec(module) is None:
    return False
  if peer not in ("torch", "kornia") or jax.default_backend() == "cpu":
    return True
  import torch

  return torch.cuda.is_available()


def supports(peer: str, method: str) -> bool:
  """Whether a peer has a method."""
  accepted = {
    "stnjax": METHODS,
    "deterministic": METHODS,
    "copy": METHODS,
    "torch": ("nearest", "linear", "cubic"),
    "kornia": ("nearest", "linear", "cubic"),
    "map_coordinates": ("nearest", "linear"),
    "dm_pix": ("nearest", "linear"),
  }
  return method in accepted[peer]


def build(
  peer: str, shape: Sequence[int], method: str, dtype: str = "float32"
) -> Passes:
  """The passes of one implementation, compiled by a first call.

  Args:
    peer: "stnjax" or one of `PEERS`.
    shape: of the batch.
    method: one of `METHODS`.
    dtype: of the images, one of `DTYPES`; theta is float32 but for torch, whose
      grids have the dtype of the images.
  """
  if peer in ("torch", "kornia"):
    passes = _torch_passes(peer, shape, method, dtype)
  else:
    passes = _jax_passes(peer, shape, method, dtype)
  if method == "nearest":  # has no gradient to theta
    passes.pop("theta", None)
  for call in passes.values():
    call()
  return passes


def _jax_passes(
  peer: str, shape: Sequence[int], method: str, dtype: str
) -> Passes:
  order = METHODS.index(method)

  def pixels(theta):
    return transforms.to_pixels(theta, shape[1:3])

  def stnjax_warp(image, theta):
    return stnjax.warp(image, theta, method=method)

  def map_coordinates(image, theta):
    lattice = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape[2:0:-1])), -1)
    linear, offset = jnp.split(pixels(theta), [2], axis=-1)
    places = jnp.einsum("bij,hwj->bihw", linear, lattice) + offset[..., None]

    def one(plane, places):
      return jax.scipy.ndimage.map_coordinates(plane, places[::-1], order)

    by_channel = jax.vmap(one, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(by_channel)(image, places)

  def dm_pix_warp(image, theta):
    import dm_pix

    # It takes (y, x, channel) alike.
    linear, offset = jnp.split(pixels(theta), [2], axis=-1)
    matrix = jnp.zeros((len(theta), 3, 4)).at[:, 2, 2].set(1)
    matrix = matrix.at[:, :2, :2].set(linear[:, ::-1, ::-1])
    matrix = matrix.at[:, :2, 3].set(offset[:, ::-1, 0])

    def one(image, matrix):
      return dm_pix.affine_transform(
        image, matrix, order=order, mode="constant"
      )

    return jax.vmap(one)(image, matrix)

  warp = {
    "stnjax": stnjax_warp,
    "deterministic": stnjax_warp,
    "map_coordinates": map_coordinates,
    "dm_pix": dm_pix_warp,
    "copy": lambda image, theta: -image,  # not the image itself, returned
  }[peer]
  image, theta, cotangent = map(jnp.asarray, inputs(shape))
  image, cotangent = image.astype(dtype), cotangent.astype(dtype)

  def to_theta(image, theta, cotangent):
    result, pull = jax.vjp(lambda theta: warp(image, theta), theta)
    return result, pull(cotangent.astype(result.dtype))

  def to_both(image, theta, cotangent):
    result, pull = jax.vjp(warp, image, theta)
    return result, pull(cotangent.astype(result.dtype))

  compile = functools.partial(
    jax.jit, compiler_options=ONE_ORDER if peer == "deterministic" else None
  )

  def calling(function, *operands):
    compiled = compile(function)
    return lambda: jax.block_until_ready(compiled(*operands))

  if peer == "copy":
    return {"forward": calling(warp, image, theta)}
  return {
    "forward": calling(warp, image, theta),
    "theta": calling(to_theta, image, theta, cotangent),
    "both": calling(to_both, image, theta, cotangent),
  }


def _torch_passes(
  peer: str, shape: Sequence[int], method: str, dtype: str
) -> Passes:
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  device = "cpu" if jax.default_backend() == "cpu" else "cuda"
  mode = {"linear": "bilinear", "cubic": "bicubic"}.get(method, method)
  image, theta, cotangent = (torch.tensor(a) for a in inputs(shape))
  image, cotangent = (
    a.permute(0, 3, 1, 2).contiguous().to(device) for a in (image, cotangent)
  )
  theta = theta.to(device)
  if peer == "kornia":
    import kornia.geometry.transform

    # It takes the matrix that pushes, in pixels, and inverts it.
    pushing = transforms.to_pixels(
      transforms.invert(theta.cpu().numpy()), shape[1:3]
    )
    theta = torch.tensor(np.asarray(pushing), device=device)
  image, theta, cotangent = (
    a.to(getattr(torch, dtype)) for a in (image, theta, cotangent)
  )

  def warp(image, theta):
    if peer == "kornia":
      return kornia.geometry.transform.warp_affine(
        image, theta, shape[1:3], mode=mode
      )
    functional = torch.nn.functional
    grid = functional.affine_grid(theta, image.shape, align_corners=False)
    return functional.grid_sample(image, grid, mode=mode, align_corners=False)

  def finish(result):
    if device == "cuda":
      torch.cuda.synchronize()
    return result

  def forward():
    with torch.no_grad():
      return finish(warp(image, theta).permute(0, 2, 3, 1))

  def backward(*names):
    def call():
      leaves = {"image": image, "theta": theta}
      leaves |= {n: leaves[n].detach().requires_grad_() for n in names}
      result, wanted = warp(**leaves), [leaves[n] for n in names]
      return finish(torch.autograd.grad(result, wanted, cotangent))

    return call

  return {
    "forward": forward,
    "theta": backward("theta"),
    "both": backward("image", "theta"),
  }
