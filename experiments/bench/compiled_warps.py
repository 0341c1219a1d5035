"""Linear warps to compile for devices that are not there."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import jax_warps
import stnjax

KERNELS = ("stnjax", "gather", "map_coordinates")
"""stnjax's choice for the device; its gather kernel; JAX's function."""


def warp_fn(kernel: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A warp of `[B, H, W, C]` by `[B, 2, 3]`.

  Args:
    kernel: One of `KERNELS`.
  """
  if kernel == "map_coordinates":
    return functools.partial(jax_warps.map_coordinates, method="linear")
  implementation = "auto" if kernel == "stnjax" else kernel
  return functools.partial(stnjax.warp, implementation=implementation)


def program(f: Callable[..., jax.Array], name: str) -> Callable[..., Any]:
  """A pass of `f`, see `jax_warps.program`; backward, gradients alone."""
  return jax_warps.program(f, name, returns_result=False)


def lowered(
  device: jax.Device, f: Callable[..., Any], *arguments: Sequence[int]
) -> jax.stages.Lowered:
  """Lowers a function for a device that need not be there.

  Args:
    device: Device to compile for.
    f: Function of float32 arrays.
    *arguments: Shapes of the arrays.
  """
  sharding = jax.sharding.SingleDeviceSharding(device)
  structs = (
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    for shape in arguments
  )
  return jax.jit(f, out_shardings=sharding).lower(*structs)
