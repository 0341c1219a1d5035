"""Warps in JAX, and their passes: forward, and with gradients.

A warp is a function of a batch `[B, H, W, C]`, theta `[B, 2, 3]`, a method and
a padding.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import transforms
from stnjax.sampling import grids

ORDERS = {"nearest": 0, "linear": 1}
"""Methods of `map_coordinates` and dm_pix, and what they call them."""

Warp = Callable[[jax.Array, jax.Array, str, str], jax.Array]


def stnjax_warp(
  image: jax.Array, theta: jax.Array, method: str, padding: str = "zeros"
) -> jax.Array:
  """This library's warp."""
  return stnjax.warp(image, theta, method=method, padding=padding)


def antialiased_warp(
  image: jax.Array, theta: jax.Array, method: str, padding: str = "zeros"
) -> jax.Array:
  """This library's warp of an image that it shrinks by 4, and so blurs."""
  shrinking = theta * np.array([4.0, 4.0, 1.0], theta.dtype)
  options = {"method": method, "padding": padding}
  return stnjax.warp(image, shrinking, antialias=True, **options)


def copy(
  image: jax.Array, theta: jax.Array, method: str, padding: str = "zeros"
) -> jax.Array:
  """The negative of the batch: moves as much memory as a warp forward."""
  del theta, method, padding
  return -image  # JAX would return the image itself without a copy


def map_coordinates(
  image: jax.Array, theta: jax.Array, method: str, padding: str = "zeros"
) -> jax.Array:
  """A warp by `jax.scipy.ndimage.map_coordinates`."""
  assert padding == "zeros"
  points = grids.affine_pixel_grid(theta, image.shape[1:3], image.shape[1:3])

  def plane(plane, points):
    rows_and_columns = jnp.moveaxis(points[..., ::-1], -1, 0)
    return jax.scipy.ndimage.map_coordinates(
      plane, rows_and_columns, ORDERS[method]
    )

  by_channel = jax.vmap(plane, in_axes=(-1, None), out_axes=-1)
  return jax.vmap(by_channel)(image, points)


def dm_pix_warp(
  image: jax.Array, theta: jax.Array, method: str, padding: str = "zeros"
) -> jax.Array:
  """A warp by dm_pix, whose matrices are of (row, column, channel)."""
  assert padding == "zeros"
  import dm_pix

  pixels = transforms.to_pixels(theta, image.shape[1:3])
  linear, offset = jnp.split(pixels, [2], axis=-1)
  matrix = jnp.zeros((len(theta), 3, 4)).at[:, 2, 2].set(1)
  matrix = matrix.at[:, :2, :2].set(linear[:, ::-1, ::-1])
  matrix = matrix.at[:, :2, 3].set(offset[:, ::-1, 0])
  single = functools.partial(
    dm_pix.affine_transform, order=ORDERS[method], mode="constant"
  )
  return jax.vmap(single)(image, matrix)


def program(
  f: Callable[[jax.Array, jax.Array], jax.Array],
  name: str,
  *,
  returns_result: bool = True,
) -> Callable[..., Any]:
  """A pass of `f(image, parameters)` as a function that can be compiled.

  Args:
    f: Function of a batch and parameters that returns a batch.
    name: "forward"; "theta", with the gradient of the parameters; or "both",
      with those of image and parameters.
    returns_result: Whether a pass with gradients also returns the result of
      `f`.

  Returns:
    Function of the image, the parameters and the cotangent of the result.
  """

  def forward(image, parameters, cotangent):
    del cotangent
    return f(image, parameters)

  def backward(image, parameters, cotangent):
    if name == "theta":
      result, vjp = jax.vjp(functools.partial(f, image), parameters)
    else:
      result, vjp = jax.vjp(f, image, parameters)
    gradients = vjp(cotangent.astype(result.dtype))
    return (result, gradients) if returns_result else gradients

  return forward if name == "forward" else backward


def passes(
  warp: Warp,
  names: tuple[str, ...],
  inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
  method: str,
  dtype: str,
  padding: str = "zeros",
  in_a_row: int = 1,
  compiler_options: dict[str, Any] | None = None,
) -> dict[str, Callable[[], Any]]:
  """The passes of a warp as calls that return when their result is there.

  Args:
    warp: Warp to call.
    names: Passes, see `program`.
    inputs: Image, theta and the cotangent of the result.
    method: Method of interpolation.
    dtype: Data type of the images; theta is float32, of float64 images float64.
    padding: What is outside.
    in_a_row: Number of times that a call computes the warp, in one program.
    compiler_options: Options of `jax.jit`.
  """
  wide = jax.enable_x64(dtype == "float64")
  image, theta, cotangent = inputs
  with wide:
    operands = (
      jnp.asarray(image, dtype),
      jnp.asarray(theta, "float64" if dtype == "float64" else "float32"),
      jnp.asarray(cotangent, dtype),
    )

  def call(compiled):
    with wide:
      return jax.block_until_ready(compiled(*operands))

  def f(image, theta):
    return warp(image, theta, method, padding)

  return {
    name: functools.partial(
      call,
      jax.jit(
        one_after_another(program(f, name), in_a_row),
        compiler_options=compiler_options,
      ),
    )
    for name in names
  }


def one_after_another(f: Callable[..., Any], times: int) -> Callable[..., Any]:
  """A function that computes `f` several times, and returns the last result.

  Each time waits for the one before it, so that none is left out.
  """

  def once_more(_, carry):
    operands, _ = lax.optimization_barrier(carry)
    return operands, f(*operands)

  def run(*operands):
    carry = operands, f(*operands)
    return (
      lax.fori_loop(1, times, once_more, carry)[1] if times > 1 else carry[1]
    )

  return run
