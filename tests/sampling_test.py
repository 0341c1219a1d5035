"""grid_sample against torch (values, both gradients) and a NumPy loop."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

import stnjax
from stnjax import sampling
from tests import reference

SHAPES = ((5, 6), (1, 4), (3, 1), (1, 1), (4, 3, 2), (2, 1, 5))
MODES = dict(
  method=sampling.METHODS,
  padding=sampling.PADDINGS,
  align_corners=(False, True),
)


def random_grid(rng, num_axes, batch=()):
  """Inside, outside and far outside."""
  grid = rng.uniform(-1.7, 1.7, (*batch, *(4, 3, 2)[:num_axes], num_axes))
  grid.reshape(-1, num_axes)[0] = 40
  grid.reshape(-1, num_axes)[1] = -40
  return grid


def lattice_grid(shape, align_corners):
  """Exactly on pixel centres, on the border, and a pixel beyond it."""
  axes = []
  for size in shape[::-1]:
    pixels = np.arange(-2, size + 2) + 0.0
    pixels = np.sort(np.append(pixels, [-0.5, size - 0.5]))
    if align_corners:
      axes.append(pixels / max(size - 1, 1) * 2 - 1)
    else:
      axes.append((2 * pixels + 1) / size - 1)
  return np.stack(np.meshgrid(*axes, indexing="xy"), -1)


def torch_sample(image, grid, cotangent, method, padding, align_corners):
  """Value and both gradients of torch's grid_sample, channels last."""
  torch = pytest.importorskip("torch")
  image = torch.tensor(np.moveaxis(image, -1, 1), requires_grad=True)
  grid = torch.tensor(grid, requires_grad=True)
  mode = "bilinear" if method == "linear" else method
  value = torch.nn.functional.grid_sample(
    image, grid, mode=mode, padding_mode=padding, align_corners=align_corners
  )
  (value * torch.tensor(np.moveaxis(cotangent, -1, 1))).sum().backward()
  return (
    np.moveaxis(value.detach().numpy(), 1, -1),
    np.moveaxis(image.grad.numpy(), 1, -1),
    grid.grad.numpy(),
  )


@pytest.mark.usefixtures("x64")
class TorchTest(parameterized.TestCase):
  def check(self, image, grid, **mode):
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=(*grid.shape[:-1], image.shape[-1]))
    expected = torch_sample(image, grid, cotangent, **mode)
    value, vjp = jax.vjp(
      lambda i, g: stnjax.grid_sample(i, g, **mode), image, grid
    )
    for ours, theirs in zip((value, *vjp(cotangent)), expected, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-10, rtol=0)

  @parameterized.product(shape=SHAPES, **MODES)
  def test_random_points(self, shape, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape, 3))
    self.check(image, random_grid(rng, len(shape), (2,)), **mode)

  @parameterized.product(shape=((4, 8), (1, 4), (2, 4, 1)), **MODES)
  def test_points_on_centres_and_borders(self, shape, **mode):
    # Powers of two, so that coordinates on the lattice are exact; with corners
    # aligned, one more.
    if mode["align_corners"]:
      shape = tuple(size + 1 if size > 1 else 1 for size in shape)
    image = np.random.default_rng(0).normal(size=(1, *shape, 2))
    if len(shape) == 2:
      grid = lattice_grid(shape, mode["align_corners"])[None]
    else:
      rng = np.random.default_rng(2)
      pixels = rng.integers(-2, 6, (1, 3, 4, 5, 3)).astype(float)
      sizes = np.array(shape[::-1])
      if mode["align_corners"]:
        grid = pixels / np.maximum(sizes - 1, 1) * 2 - 1
      else:
        grid = (2 * pixels + 1) / sizes - 1
    self.check(image, grid, **mode)


class LoopTest(parameterized.TestCase):
  @parameterized.product(
    shape=SHAPES, dtype=("float32", "bfloat16", "float16", "uint8"), **MODES
  )
  def test_every_dtype(self, shape, dtype, **mode):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(0, 255, (*shape, 2)), dtype)
    grid = random_grid(rng, len(shape)).astype(np.float32)
    out = stnjax.grid_sample(image, grid, **mode)
    self.assertEqual(out.dtype, jnp.dtype(dtype))
    expected = reference.sample(np.asarray(image), grid, **mode)
    tolerance = {"float32": 2e-4, "uint8": 0.51, "float16": 0.13}.get(
      dtype, 1.0
    )
    np.testing.assert_allclose(
      out.astype(jnp.float32), expected, atol=tolerance, rtol=0
    )

  @parameterized.product(
    image=("float32", "float64", "bfloat16"),
    grid=("float32", "float64", "bfloat16"),
    method=sampling.METHODS,
    padding=sampling.PADDINGS,
  )
  @pytest.mark.usefixtures("x64")
  def test_dtypes_mix_in_double_precision(self, image, grid, **mode):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(4, 5, 1)), image)
    grid = jnp.asarray(random_grid(rng, 2), grid)
    out = stnjax.grid_sample(image, grid, **mode)
    self.assertEqual(out.dtype, image.dtype)
    expected = reference.sample(
      np.asarray(image), np.asarray(grid), align_corners=False, **mode
    )
    tolerance = 0.01 if image.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
      out.astype(jnp.float64), expected, atol=tolerance, rtol=0
    )

  @parameterized.parameters(jnp.nan, jnp.inf)
  def test_a_bad_edge_pixel_stays_where_it_is(self, bad):
    image = jnp.ones((4, 4, 1)).at[0, 0].set(bad)
    grid = jnp.array([[[-5.0, -5.0], [0.5, 0.5], [-0.75, -5.0]]])
    out = stnjax.grid_sample(image, grid)
    np.testing.assert_allclose(out[0, :, 0], [0, 1, 0])

  def test_no_channels(self):
    out = stnjax.grid_sample(jnp.ones((4, 4, 0)), jnp.zeros((2, 3, 2)))
    self.assertEqual(out.shape, (2, 3, 0))

  def test_nearest_keeps_integers_and_booleans(self):
    grid = jnp.array([[[0.5, -0.5]]])
    big = jnp.array([[[2**30 + 1], [2**30 + 3]]] * 2, jnp.int32)
    out = stnjax.grid_sample(big, grid, method="nearest")
    self.assertEqual(int(out[0, 0, 0]), 2**30 + 3)
    mask = jnp.array([[[False], [True]]] * 2)
    out = stnjax.grid_sample(mask, grid, method="nearest")
    self.assertEqual(out.dtype, jnp.bool_)
    self.assertTrue(bool(out[0, 0, 0]))

  @parameterized.parameters(
    ((), (), ()),
    ((), (3,), (3,)),
    ((3,), (), (3,)),
    ((0,), (0,), (0,)),
    ((0,), (), (0,)),
    ((1,), (1,), (1,)),
    ((2, 1), (3,), (2, 3)),
  )
  def test_batch_axes_broadcast(self, image_batch, grid_batch, batch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*image_batch, 4, 5, 2)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (*grid_batch, 3, 2, 2)).astype(np.float32)
    out = stnjax.grid_sample(image, grid)
    self.assertEqual(out.shape, (*batch, 3, 2, 2))
    images = np.broadcast_to(image, (*batch, 4, 5, 2))
    grids = np.broadcast_to(grid, (*batch, 3, 2, 2))
    for place in np.ndindex(*batch):
      expected = reference.sample(
        images[place],
        grids[place],
        method="linear",
        padding="zeros",
        align_corners=False,
      )
      np.testing.assert_allclose(out[place], expected, atol=1e-5)


class GradientTest(parameterized.TestCase):
  @parameterized.product(padding=sampling.PADDINGS, align_corners=(False, True))
  @pytest.mark.usefixtures("x64")
  def test_numerical_gradients_off_the_lattice(self, padding, align_corners):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    # A quarter to three quarters between pixel centres.
    low, high = (-1, 7) if padding == "zeros" else (1, 4)
    pixels = rng.integers(low, high, (3, 4, 2)) + rng.uniform(
      0.25, 0.75, (3, 4, 2)
    )
    sizes = np.array([6, 5])
    if align_corners:
      grid = pixels / (sizes - 1) * 2 - 1
    else:
      grid = (2 * pixels + 1) / sizes - 1
    check_grads(
      lambda i, g: stnjax.grid_sample(
        i, g, padding=padding, align_corners=align_corners
      ),
      (image, grid),
      order=2,
      modes=("fwd", "rev"),
      eps=1e-5,
    )

  def test_unused_image_cotangent_costs_nothing(self):
    image = jnp.ones((2, 8, 8, 3))
    grid = jnp.zeros((2, 4, 4, 2))

    def text(argnums):
      grad = jax.grad(lambda i, g: stnjax.grid_sample(i, g).sum(), argnums)
      return jax.jit(grad).lower(image, grid).compile().as_text()

    self.assertNotIn(" scatter(", text(1))
    self.assertIn(" scatter(", text(0))


class VariantsTest(chex.TestCase):
  @chex.all_variants()
  def test_all_variants_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    expected = reference.sample(
      image, grid, method="linear", padding="border", align_corners=False
    )
    sample = self.variant(
      lambda i, g: stnjax.grid_sample(i, g, padding="border")
    )
    np.testing.assert_allclose(sample(image, grid), expected, atol=1e-5)

  def test_sharded_batch_needs_no_collectives(self):
    mesh = jax.make_mesh((4,), ("batch",))
    spec = jax.NamedSharding(mesh, jax.P("batch"))
    image = jax.device_put(jnp.ones((8, 6, 6, 2)), spec)
    grid = jax.device_put(jnp.zeros((8, 6, 6, 2)), spec)
    grads = jax.jit(
      jax.grad(lambda i, g: (stnjax.grid_sample(i, g) ** 2).sum(), (0, 1)),
      out_shardings=(spec, spec),
    )
    text = grads.lower(image, grid).compile().as_text()
    for collective in (" all-gather", " all-reduce", " all-to-all", "permute("):
      self.assertNotIn(collective, text)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (ValueError, "method='bicubic'.*accepted", dict(method="bicubic")),
    (ValueError, "padding='mirror'.*accepted", dict(padding="mirror")),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2, 4)))),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2)))),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2, 3)))),
    (ValueError, "image must be", dict(image=jnp.zeros((3, 3)))),
    (ValueError, "image must be", dict(image=jnp.zeros((0, 3, 1)))),
    (
      ValueError,
      "batch axes of image and grid",
      dict(image=jnp.zeros((2, 4, 4, 1)), grid=jnp.zeros((3, 2, 2, 2))),
    ),
    (
      TypeError,
      "grid must hold real",
      dict(grid=jnp.zeros((2, 2, 2), complex)),
    ),
    (
      TypeError,
      "image must hold real",
      dict(image=jnp.zeros((3, 3, 1), complex)),
    ),
    (
      TypeError,
      "bool needs method='nearest'",
      dict(image=jnp.zeros((3, 3, 1), bool)),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    call = {
      "image": jnp.zeros((3, 3, 1)),
      "grid": jnp.zeros((2, 2, 2)),
      **arguments,
    }
    with self.assertRaisesRegex(error, message):
      stnjax.grid_sample(call.pop("image"), call.pop("grid"), **call)


if __name__ == "__main__":
  absltest.main()
