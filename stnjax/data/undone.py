"""Perturbed images at their true pose, as an ideal transformer returns them."""

import jax

from stnjax.data.axes import Truth
from stnjax.data.perturbations import Perturbation, Shape
from stnjax.sampling.warping import warp


def undone(perturbation: Perturbation, padding: str = "border") -> Perturbation:
  """A perturbation that is undone by its known truth.

  The error of a network on its images is that behind a perfect transformer. The
  gap to the error on the perturbed images is the most that a transformer can
  gain.

  Args:
    perturbation: Perturbation with an `ideal` theta.
    padding: Padding of the warp, one of `stnjax.sampling.UNFILLED`.

  Returns:
    A perturbation named after it, with "_undone", without axes.

  Raises:
    ValueError: If the perturbation has no `ideal`.
  """
  if perturbation.ideal is None:
    raise ValueError(
      f"perturbation {perturbation.name!r} has no ideal, the theta that undoes"
      " it; pass Perturbation(ideal=...)"
    )

  ideal = perturbation.ideal

  def draw(
    key: jax.Array, image: jax.Array, *clutter: jax.Array
  ) -> tuple[jax.Array, Truth]:
    perturbed, truth = perturbation.draw(key, image, *clutter)
    height, width, channels = perturbed.shape
    theta = ideal(truth, (height, width, channels))
    shape = perturbation.ideal_shape((height, width, channels))[:2]
    return warp(perturbed, theta, output_shape=shape, padding=padding), {}

  def output_shape(image_shape: Shape) -> Shape:
    return perturbation.ideal_shape(perturbation.output_shape(image_shape))

  title = perturbation.title or "{}, " + perturbation.name.replace("_", " ")
  return Perturbation(
    name=f"{perturbation.name}_undone",
    draw=draw,
    output_shape=output_shape,
    needs_clutter=perturbation.needs_clutter,
    title=f"{title} at the true pose",
  )
