"""The spatial transformer as a layer: localise, then resample."""

from collections.abc import Callable, Sequence

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax import checks, coordinates, promotion, sampling, transforms
from stnjax.transforms import families


class SpatialTransformer(nnx.Module):
  """Predicts a transform from features, and warps images or the features.

  Where the localiser returns zeros, the transform is the identity: pixels are
  copied exactly.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), section 3.

  >>> localiser = lambda features: jnp.zeros((len(features), 6))
  >>> transformer = SpatialTransformer(localiser)
  >>> warped, theta = transformer(jnp.ones((2, 8, 8, 1)))
  >>> warped.shape, theta.shape
  ((2, 8, 8, 1), (2, 2, 3))
  """

  def __init__(
    self,
    localiser: Callable[[jax.Array], jax.Array],
    family: str | transforms.Family = "affine",
    padding: str = "border",
    output_shape: Sequence[int] | None = None,
    *,
    edge_gradient: bool = True,
  ):
    """Keeps the localiser and the options of the warp.

    Args:
      localiser: Module or function from features `[B, h, w, F]` to parameters
        `[B, P]`, where P is `transforms.num_params(family)`.
      family: Transform family, a name in `stnjax.transforms.FAMILIES` or a
        `Family`.
      padding: Values outside the image, one of `stnjax.sampling.UNFILLED`.
      output_shape: `(H, W)` of the result; that of the warped images by
        default.
      edge_gradient: Whether padding="border" has a gradient with respect to
        the transform at the centres of edge pixels, where clamping has none.
        On feature maps of few pixels a transformer cannot leave the identity
        without it.

    Raises:
      ValueError: For an unknown family or padding.
    """
    checks.option("padding", padding, sampling.UNFILLED)
    checks.flag("edge_gradient", edge_gradient)
    if output_shape is not None:
      output_shape = checks.spatial_shape("output_shape", output_shape, 2)
    self.localiser = localiser
    self.family = families.find(family)
    self.padding = padding
    self.output_shape = output_shape
    self.edge_gradient = edge_gradient

  @promotion.usual
  def __call__(
    self, features: jax.Array, warps: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Localises in the features, and resamples.

    Args:
      features: `[B, h, w, F]`, input of the localiser.
      warps: `[B, H, W, C]`, images to resample; the features by default.

    Returns:
      The result `[B, *output_shape, C]`, and theta: `[B, 2, 3]` or `[B, 3, 3]`
      from output to input coordinates, or the parameters `[B, P]` of a family
      of grids.

    Raises:
      ValueError: If the localiser returns another number of parameters.

    Gradient: as `stnjax.warp`, see also `edge_gradient`.
    """
    theta = self.theta(self.localiser(features))
    return self.resample(features if warps is None else warps, theta), theta

  def theta(self, parameters: jax.Array) -> jax.Array:
    """Matrices of the parameters; for a family of grids the parameters.

    Args:
      parameters: `[B, P]`, as the localiser returns them.

    Raises:
      ValueError: If P is not `transforms.num_params(family)`.
    """
    count = transforms.num_params(self.family)
    if parameters.ndim != 2 or parameters.shape[1] != count:
      raise ValueError(
        f"localiser must return parameters [B, {count}] for family"
        f" {self.family.name!r}, got shape {parameters.shape}"
      )
    if self.family.grid:
      return checks.floating("parameters", parameters)
    return transforms.matrix(parameters, self.family)

  @promotion.usual
  def resample(
    self,
    images: jax.Array,
    theta: jax.Array,
    output_shape: Sequence[int] | None = None,
  ) -> jax.Array:
    """Resamples images at a theta.

    Args:
      images: `[B, H, W, C]`.
      theta: As `theta` returns it, or the product of several.
      output_shape: `(H, W)` of the result; that of the layer by default.

    Returns:
      `[B, *output_shape, C]` in the dtype of the images.
    """
    shape = output_shape or self.output_shape or images.shape[1:3]
    padding = self.padding
    if padding == "border" and self.edge_gradient:
      points = self._points(theta, images.shape[1:3], shape) + 1
      # The border is made of pixels, so that edges have a right-hand slope.
      images = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    elif self.family.grid:
      points = self._points(theta, images.shape[1:3], shape)
    else:
      return sampling.warp(images, theta, output_shape=shape, padding=padding)
    return sampling.sample_pixels(
      images, points, method="linear", padding=padding
    )

  def _points(
    self, theta: jax.Array, shape: Sequence[int], output_shape: Sequence[int]
  ) -> jax.Array:
    """Sampling points `[B, *output_shape, 2]`, in pixels of the input."""
    if not self.family.grid:
      return sampling.affine_pixel_grid(theta, shape, output_shape)
    grid = self.family.grid(theta, tuple(output_shape))
    return coordinates.to_pixels(grid, shape)

  @promotion.usual
  def pose(self, theta: jax.Array, output_shape: Sequence[int]) -> jax.Array:
    """The matrix of a theta; for a grid the affine matrix closest to it.

    Args:
      theta: As `theta` returns it.
      output_shape: `(H, W)` of the grid to fit.

    Returns:
      `[B, 2, 3]` or `[B, 3, 3]`, normalised, output to input coordinates.
    """
    if not self.family.grid:
      return theta
    return affine_fit(self.family.grid(theta, tuple(output_shape)))


@promotion.usual
def affine_fit(grid: jax.Array) -> jax.Array:
  """The affine matrix closest to a grid, by least squares over its points.

  Args:
    grid: `[..., H, W, 2]` normalised input coordinates (x, y).

  Returns:
    `[..., 2, 3]`; exactly the identity for the identity grid. Along an axis
    of one pixel the linear part is that of the identity.
  """
  lattice = coordinates.lattice(grid.shape[-3:-1], dtype=grid.dtype)
  moved = grid - lattice  # besides the identity, which stays exact
  squares = (lattice**2).mean(axis=(0, 1))
  products = jnp.einsum(
    "...hwn,hwm->...nm", moved, lattice, precision=lax.Precision.HIGHEST
  ) / (lattice.shape[0] * lattice.shape[1])
  linear = products / jnp.where(squares > 0, squares, 1)
  shift = moved.mean(axis=(-3, -2))[..., None]
  identity = jnp.eye(2, 3, dtype=grid.dtype)
  return identity + jnp.concatenate([linear, shift], axis=-1)
