"""Kernels: ways to sample one image, one per file, found by name.

A kernel is one `Kernel` object in `KERNELS`; registering another one makes its
name known to `implementation`, and "auto" uses it on its platforms for what it
supports.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import checks
from stnjax.registry import Registry
from stnjax.sampling import rounding
from stnjax.sampling.kernels import compiled, gather, matmul
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding, PaddingPerAxis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """A way to sample one image.

  Attributes:
    name: Name of the kernel.
    supports: From an image `[*shape, C]` with N spatial axes, N = 1, 2 or 3,
      points `[..., N]` and a `Method` to whether `sample` accepts them. Values
      may be traced; shapes and dtypes are known.
    sample: Reads such an image at pixel coordinates, as `gather.sample` does:
      `sample(image, points, *, method, padding, align_corners, batch)` returns
      `[..., C]`, where `padding.along(axis)` is the `Padding` of an axis, 0 for
      x. Batches are made by `vmap`; `batch` is how many images are read at
      once.
    reads: Inputs that are supported, for errors.
    takes: Further arguments of `sample`: "rounds", whether values of an image
      of integers are to be in its dtype, rounded as by `rounding.cast`;
      "matrix", `[N, N + 1]`, of which the points are `affine_maps.places`, or
      None.
    takes_symbolic_sizes: Whether sizes of images and of points may be symbolic
      dimensions, in exported programs.
    platforms: Platforms on which "auto" prefers the kernel, of "cpu", "cuda",
      "rocm", "tpu"; None for all. A kernel for the platform precedes one for
      all, and a later registered one an earlier one.
  """

  name: str
  supports: Callable[[jax.Array, jax.Array, Method], bool]
  sample: Callable[..., jax.Array]
  reads: str
  takes: tuple[str, ...] = ()
  platforms: tuple[str, ...] | None = None
  takes_symbolic_sizes: bool = False

  def accepts(
    self, image: jax.Array, points: jax.Array, method: Method
  ) -> bool:
    """Whether `sample` reads such an image, of static or symbolic sizes."""
    known = checks.is_static(*image.shape, *points.shape)
    return (known or self.takes_symbolic_sizes) and self.supports(
      image, points, method
    )


KERNELS: Registry[Kernel] = Registry("implementation")
"""Kernels by name: the accepted values of `implementation` besides "auto"."""

for _kernel in (
  Kernel(
    name="gather",
    supports=lambda image, points, method: True,
    sample=gather.sample,
    reads="all images",
    takes_symbolic_sizes=True,
  ),
  Kernel(
    name="compiled",
    supports=compiled.supports,
    sample=compiled.sample,
    reads="floating or uint8 images and volumes, with method='nearest',"
    " 'linear', 'cubic' or 'spline'",
    takes=("rounds", "matrix"),
  ),
  Kernel(
    name="matmul",
    supports=matmul.supports,
    sample=matmul.sample,
    reads="floating images, not volumes",
    platforms=("tpu",),
  ),
):
  KERNELS.register(_kernel.name, _kernel)


def candidates(implementation: str) -> tuple[Kernel, ...]:
  """The kernels that an implementation may use, preferred ones last.

  Args:
    implementation: Name of a kernel, or "auto" for all.

  Raises:
    ValueError: For an unknown name.
  """
  checks.option("implementation", implementation, ("auto", *KERNELS))
  if implementation == "auto":
    return tuple(KERNELS.values())
  return (KERNELS[implementation],)


def sample(
  image: jax.Array,
  points: jax.Array,
  matrix: jax.Array | None = None,
  *,
  kernels: tuple[Kernel, ...],
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  batch: int = 1,
  rounds: bool = False,
) -> jax.Array:
  """Samples by the kernel that suits the platform.

  Args:
    image: `[*shape, C]` with N spatial axes.
    points: `[..., N]` pixel coordinates, last axis (x, y) or (x, y, z).
    matrix: `[N, N + 1]`, if the points are its `affine_maps.places`.
    kernels: Kernels to choose from, preferred ones last.
    method: The method.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    batch: How many images are read at once, under `vmap`.
    rounds: Whether values of an image of integers are of its dtype, rounded.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider, integers stay
    what they are with "nearest" and `rounds`.

  Raises:
    ValueError: Where no kernel supports the image.
  """
  supported = [k for k in kernels if k.accepts(image, points, method)]
  by_platform, fallback = {}, None
  rounds &= jnp.issubdtype(image.dtype, jnp.integer)
  for kernel in supported:
    read = functools.partial(
      _sample,
      kernel,
      rounds=rounds,
      method=method,
      padding=padding,
      align_corners=align_corners,
      batch=batch,
    )
    if kernel.platforms is None or len(kernels) == 1:
      fallback = read
    else:
      by_platform |= dict.fromkeys(kernel.platforms, read)
  if fallback is None:
    raise _unsupported(kernels[-1], image, points, method)
  if not by_platform:
    return fallback(image, points, matrix)
  return lax.platform_dependent(
    image, points, matrix, **by_platform, default=fallback
  )


def _sample(
  kernel: Kernel,
  image: jax.Array,
  points: jax.Array,
  matrix: jax.Array | None,
  *,
  rounds: bool,
  **options: Any,
) -> jax.Array:
  """Samples by one kernel, with those further arguments that it takes."""
  further = {"rounds": rounds, "matrix": matrix}
  options |= {name: further[name] for name in kernel.takes}
  values = kernel.sample(image, points, **options)
  return rounding.cast(values, image.dtype) if rounds else values


def _unsupported(
  kernel: Kernel, image: jax.Array, points: jax.Array, method: Method
) -> ValueError:
  accepted = ["auto"]
  accepted += [
    k.name for k in KERNELS.values() if k.accepts(image, points, method)
  ]
  static = checks.is_static(*image.shape, *points.shape)
  sizes = "" if static else " of symbolic sizes"
  return ValueError(
    f"implementation={kernel.name!r} reads {kernel.reads}; got {image.dtype}"
    f" with {points.shape[-1]} spatial axes{sizes} and method={method.name!r};"
    f" accepted: {', '.join(map(repr, accepted))}"
  )
