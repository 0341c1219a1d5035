"""Options that the functions share which sample an image."""

from collections.abc import Sequence
from typing import TypedDict

import jax
from jax.typing import ArrayLike

from stnjax.sampling.methods import Method


class SamplingOptions(TypedDict, total=False):
  """Keyword arguments of `grid_sample` and `sample_pixels`, but the mask.

  What they mean is documented there. The type of a result depends on
  `return_mask` alone, so that signatures which differ in it share the others.
  """

  method: str | Method
  padding: str | Sequence[str]
  edge: str
  fill_value: ArrayLike
  align_corners: bool
  prefilter: bool
  key: jax.Array | None
  implementation: str


class WarpOptions(SamplingOptions, total=False):
  """Keyword arguments of `warp`, but the mask."""

  output_shape: Sequence[int] | None
  antialias: bool
