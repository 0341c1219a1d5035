"""Checks of a perturbation and its axes on two images, before training."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import checks
from stnjax.data.axes import Axis
from stnjax.data.perturbations import Perturbation, Shape, perturb

_COUNT = 2


@functools.lru_cache(maxsize=64)
def check_perturbation(perturbation: Perturbation, image_shape: Shape) -> None:
  """Checks the draws of a perturbation, and that its axes measure them.

  Draws are traced, not computed. Axes are called with a truth of zeros and with
  the pose of the identity.

  Args:
    perturbation: Perturbation to check.
    image_shape: `(H, W, C)` of the images.

  Raises:
    ValueError: If `draw` does not return an image of the output_shape and a
      dict, two axes share a name, or a function of an axis raises or returns
      another shape than `[N]`, or of authors_axes `[N, D]`. Names the
      perturbation and the axis.
  """
  for field in ("axes", "authors_axes"):
    names = [axis.name for axis in getattr(perturbation, field)]
    if len(set(names)) < len(names):
      raise ValueError(
        f"perturbation {perturbation.name!r}: names of {field} must differ, got"
        f" {', '.join(names)}"
      )
  truth = _truth(perturbation, image_shape)
  shape = perturbation.output_shape(image_shape)
  poses = np.eye(2, 3, dtype=np.float32)[None].repeat(_COUNT, 0)
  with np.errstate(all="ignore"):  # zeros may lie outside of a function
    for axis in perturbation.axes:
      _check(perturbation, axis, "true", (1,), truth)
      _check(perturbation, axis, "predicted", (1,), poses, shape)
    for axis in perturbation.authors_axes:
      true = _check(perturbation, axis, "true", (1, 2), truth)
      found = _check(perturbation, axis, "predicted", (1, 2), poses, shape)
      if found.shape != true.shape:
        raise ValueError(
          f"perturbation {perturbation.name!r}, axis {axis.name!r}: true and"
          f" predicted must return the same shape, got {true.shape} and"
          f" {found.shape} for N = {_COUNT}"
        )


def _truth(
  perturbation: Perturbation, image_shape: Shape
) -> Mapping[str, np.ndarray]:
  """Zeros in the shapes of the truth of two images."""

  def draw(seed: jax.Array, images: jax.Array, clutter: jax.Array) -> Any:
    keys = jax.random.split(jax.random.key(seed), _COUNT)
    needed = clutter if perturbation.needs_clutter else None
    return perturb(keys, images, perturbation, needed)[1]

  images = jax.ShapeDtypeStruct((_COUNT, *image_shape), jnp.float32)
  clutter = jax.ShapeDtypeStruct(images.shape, jnp.uint8)
  seed = jax.ShapeDtypeStruct((), jnp.uint32)
  shapes = jax.eval_shape(draw, seed, images, clutter)
  return {k: np.zeros(leaf.shape, leaf.dtype) for k, leaf in shapes.items()}


def _check(
  perturbation: Perturbation,
  axis: Axis,
  field: str,
  dims: Sequence[int],
  first: Any,
  *others: Sequence[int],
) -> np.ndarray:
  """Raises unless a function of an axis returns numbers for each image."""
  owner = f"perturbation {perturbation.name!r}, axis {axis.name!r}: {field}"
  try:
    values = np.asarray(getattr(axis, field)(first, *others))
  except Exception as error:  # whatever the user's function raises
    given = ""
    if isinstance(first, Mapping):
      given = f"; truth has {', '.join(map(str, first)) or 'nothing'}"
    raise ValueError(
      f"{owner} raised {type(error).__name__}: {error}{given}"
    ) from error
  fits = values.ndim in dims and len(values) == _COUNT and values.size
  if not fits or values.dtype.kind not in "fiub":
    several = ", or D numbers, [N, D]" if 2 in dims else ""
    raise ValueError(
      f"{owner} must return a number for each image, [N]{several}, got"
      f" {checks.shown(values)} for N = {_COUNT}"
    )
  return values
