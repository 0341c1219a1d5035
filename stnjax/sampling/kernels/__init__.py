"""Ways to sample one image, one per file, all with one signature.

`sample(image, points, *, method, padding, align_corners)` reads an image
`[*shape, C]` at pixel coordinates `[..., N]` and returns `[..., C]`. That of
`matmul` may also be told how many images are read at once.
"""

import functools
from typing import Any

import jax
from jax import lax

from stnjax.sampling.kernels import bilinear, gather, matmul

IMPLEMENTATIONS = ("auto", "gather", "matmul")
"""Accepted values of `implementation`."""


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  implementation: str,
  batch: int = 1,
  **options: Any,
) -> jax.Array:
  """Samples with the kernel that is named, or that suits the platform.

  Args:
    image: see `gather.sample`.
    points: likewise.
    implementation: one of `IMPLEMENTATIONS`. "auto" is "matmul" where the
      program is lowered for TPU and `matmul.serves` the image; elsewhere
      `bilinear` where that serves it, else "gather".
    batch: how many images are read at once, under `vmap`.
    **options: method, padding and align_corners, see `gather.sample`.

  Raises:
    ValueError: where "matmul" is named and does not serve the image.
  """
  by_gather = functools.partial(gather.sample, **options)
  by_matmul = functools.partial(matmul.sample, batch=batch, **options)
  serves = matmul.serves(image, points)
  elsewhere = by_gather
  if bilinear.serves(image, points, options["method"]):
    del options["method"]
    elsewhere = functools.partial(bilinear.sample, **options)
  if implementation == "matmul" and not serves:
    raise ValueError(
      "implementation='matmul' reads floating images, not volumes; got"
      f" {image.dtype} with {points.shape[-1]} spatial axes; accepted:"
      " 'auto', 'gather'"
    )
  if implementation == "matmul":
    return by_matmul(image, points)
  if implementation == "gather" or not serves:
    return by_gather(image, points)
  return lax.platform_dependent(image, points, tpu=by_matmul, default=elsewhere)
