"""Deformed convolutions against loops, other libraries and ordinary ones."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.reference
import pytest

from stnjax import transforms
from stnjax.nn import deformation, predictors
from tests import reference
from tests.sampling.cases import check_gradients

MODE = dict(method="linear", padding="zeros", align_corners=False)


def normal(*shape, seed=0, scale=1.0):
  return np.random.default_rng(seed).normal(0, scale, shape)


def single(*arrays):
  return [jnp.asarray(a, jnp.float32) for a in arrays]


def convolve(features, points, kernel):
  """Tap by tap, in float64."""
  batch, height, width = points.shape[:3]
  kernel = np.asarray(kernel, np.float64)
  result = np.zeros((batch, height, width, kernel.shape[-1]))
  for index in np.ndindex(*points.shape[:-1]):
    image, tap = features[index[0]], index[3:]
    x, y = (float(p) for p in points[index])
    across = reference.weights(x, image.shape[1], **MODE)
    down = reference.weights(y, image.shape[0], **MODE)
    read = np.einsum("y,x,yxc->c", down, across, image)
    result[index[:3]] += read @ kernel[tap]
  return result


def lattice(height, width, kernel_shape, pads):
  """Where a convolution reads, place by place and tap by tap."""
  size = [n + 2 * pad - k + 1 for n, pad, k in
          zip((height, width), pads, kernel_shape)]  # fmt: skip
  points = np.zeros((*size, *kernel_shape, 2))
  for y, x, i, j in np.ndindex(*points.shape[:-1]):
    points[y, x, i, j] = x + j - pads[1], y + i - pads[0]
  return points


def ordinary(features, kernel, padding):
  return lax.conv_general_dilated(
    features,
    kernel,
    (1, 1),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


class ConvTest(parameterized.TestCase):
  @parameterized.parameters(
    ((2, 5, 4, 3), (3, 2), (3, 3)),
    ((1, 3, 6, 2), (2, 2), (2, 4)),
    ((3, 1, 1, 1), (1, 4), (1, 1)),
  )
  def test_against_a_loop(self, shape, places, kernel_shape):
    rng = np.random.default_rng(1)
    size = (shape[0], *places, *kernel_shape, 2)
    points = rng.uniform(-2, 6, size)  # outside, too
    points[0, 0, 0] = np.round(points[0, 0, 0])
    features, kernel = normal(*shape), normal(*kernel_shape, shape[-1], 4)
    found = deformation.deformed_conv(*single(features, points, kernel))
    expected = convolve(features, points.astype(np.float32), kernel)
    np.testing.assert_allclose(found, expected, atol=1e-4)

  @parameterized.parameters(
    ("VALID", (3, 3), 3),
    ("VALID", (5, 2), 0),
    ("SAME", (1, 1), 3),
    ("SAME", (2, 4), 1),
  )
  @pytest.mark.slow
  def test_at_regular_points_it_is_a_convolution(
    self, padding, kernel_shape, batch
  ):
    features, kernel = single(
      normal(batch, 6, 5, 2), normal(*kernel_shape, 2, 3)
    )
    points = deformation.regular_points((6, 5), kernel_shape, padding)
    everywhere = jnp.broadcast_to(points, (batch, *points.shape))
    found = deformation.deformed_conv(features, everywhere, kernel)
    expected = ordinary(features, kernel, padding)
    self.assertEqual(found.shape, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)

  @parameterized.parameters(
    (jnp.bfloat16, 0.05), (jnp.float16, 0.01), (jnp.float32, 1e-5)
  )
  def test_dtypes(self, dtype, atol):
    features, kernel = normal(2, 5, 5, 3), normal(3, 3, 3, 2)
    features, kernel = (jnp.asarray(a, dtype) for a in (features, kernel))
    points = deformation.regular_points((5, 5), (3, 3), "SAME")
    points = jnp.broadcast_to(points, (2, *points.shape))
    found = deformation.deformed_conv(features, points, kernel)
    expected = ordinary(*single(features, kernel), "SAME")
    self.assertEqual(found.dtype, dtype)
    size = np.abs(expected).max()
    np.testing.assert_allclose(
      found.astype(jnp.float32), expected, atol=atol * size
    )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients_are_the_numerical_ones(self):
    rng = np.random.default_rng(2)
    features, kernel = normal(2, 4, 5, 2), normal(2, 3, 2, 3)
    # Between pixels, inside and across the edges, away from the kinks.
    points = rng.integers(-1, 5, (2, 3, 2, 2, 3, 2)) + rng.uniform(
      0.1, 0.9, (2, 3, 2, 2, 3, 2)
    )
    weights = normal(2, 3, 2, 3, seed=3)

    def loss(*arrays):
      return (weights * jnp.sin(deformation.deformed_conv(*arrays))).sum()

    arrays = [jnp.asarray(a, jnp.float64) for a in (features, points, kernel)]
    self.assertEqual(loss(*arrays).dtype, jnp.float64)
    np.testing.assert_allclose(
      deformation.deformed_conv(*arrays),
      convolve(features, points, kernel),
      atol=1e-12,
    )
    loss = jax.jit(loss)
    grads = jax.grad(loss, (0, 1, 2))(*arrays)
    for which, (array, grad) in enumerate(zip(arrays, grads, strict=True)):
      for place in rng.choice(array.size, 15, replace=False):
        ends = []
        for step in (-1e-6, 1e-6):
          moved = list(arrays)
          moved[which] = array.ravel().at[place].add(step).reshape(array.shape)
          ends.append(loss(*moved))
        slope = (ends[1] - ends[0]) / 2e-6
        self.assertAlmostEqual(grad.ravel()[place], slope, delta=1e-7)

  @pytest.mark.slow
  def test_at_a_pixel_the_gradient_of_the_points_is_the_right_hand_one(self):
    ramp = jnp.array([1.0, 3.0, 7.0]).reshape(1, 1, 3, 1)
    points = (
      jnp.zeros((1, 1, 3, 1, 1, 2)).at[0, 0, :, 0, 0, 0].set(jnp.arange(3.0))
    )
    grad = jax.grad(
      lambda p: deformation.deformed_conv(ramp, p, jnp.ones((1, 1, 1, 1))).sum()
    )(points)
    np.testing.assert_allclose(grad[0, 0, :, 0, 0, 0], [2, 4, -7], atol=1e-6)

  @parameterized.parameters("VALID", "SAME")
  def test_against_torchvision(self, padding):
    torch = pytest.importorskip("torch")
    try:
      from torchvision import ops
    except (ImportError, RuntimeError) as error:  # or built for another torch
      self.skipTest(f"torchvision cannot be used: {error}")
    features, kernel = normal(2, 7, 6, 3), normal(3, 5, 3, 4)
    points = deformation.regular_points((7, 6), (3, 5), padding)
    offsets = normal(2, *points.shape, scale=1.5, seed=4)
    weights = normal(2, *points.shape[:2], 4, seed=5)
    x, offset, weight = (
      torch.tensor(a, dtype=torch.float32, requires_grad=True)
      for a in (
        features.transpose(0, 3, 1, 2),
        # y before x, taps before places.
        offsets[..., ::-1].transpose(0, 3, 4, 5, 1, 2).reshape(
          2, 30, *points.shape[:2]
        ),
        kernel.transpose(3, 2, 0, 1),
      )
    )  # fmt: skip
    pads = (1, 2) if padding == "SAME" else (0, 0)
    result = ops.deform_conv2d(x, offset, weight, padding=pads)
    (result.permute(0, 2, 3, 1) * torch.tensor(weights)).sum().backward()

    def loss(features, offsets, kernel):
      found = deformation.deformed_conv(features, points + offsets, kernel)
      return (weights * found).sum(), found

    grads, found = jax.grad(loss, (0, 1, 2), has_aux=True)(
      *single(features, offsets, kernel)
    )
    expected = result.detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    moved = offset.grad.numpy().reshape(2, 3, 5, 2, *points.shape[:2])
    for grad, other in zip(
      grads,
      (
        x.grad.permute(0, 2, 3, 1),
        moved.transpose(0, 4, 5, 1, 2, 3)[..., ::-1],
        weight.grad.permute(2, 3, 1, 0),
      ),
      strict=True,
    ):
      np.testing.assert_allclose(grad, other, atol=1e-3)

  @parameterized.parameters(
    ((2, 5, 5, 3), (2, 2, 2, 3, 3, 2), (3, 2, 3, 4)),  # another kernel
    ((2, 5, 5, 3), (1, 2, 2, 3, 3, 2), (3, 3, 3, 4)),  # another batch
    ((2, 5, 5, 4), (2, 2, 2, 3, 3, 2), (3, 3, 3, 4)),  # other channels
    ((5, 5, 3), (2, 2, 2, 3, 3, 2), (3, 3, 3, 4)),
    ((2, 5, 5, 3), (2, 2, 2, 3, 3, 3), (3, 3, 3, 4)),
    ((2, 5, 5, 3), (2, 2), (3, 3, 3, 4)),
    ((2, 5, 5, 3), (2, 2, 2, 3, 3, 2), (3,)),
  )
  def test_shapes_that_do_not_fit(self, *shapes):
    with self.assertRaisesRegex(ValueError, r"features must be .*got shapes"):
      deformation.deformed_conv(*(jnp.zeros(shape) for shape in shapes))


def convolve_groups(features, points, kernel, mask):
  """Group by group and tap by tap, from the definition, in float64."""
  channels, filters = features.shape[-1], kernel.shape[-1]
  parts, groups = points.shape[3], channels // kernel.shape[2]
  result = np.zeros((*points.shape[:3], filters))
  for n, i, j, f, d in np.ndindex(*result.shape, kernel.shape[2]):
    channel = f // (filters // groups) * kernel.shape[2] + d
    part = channel // (channels // parts)
    image = features[n, :, :, channel]
    for tap in np.ndindex(*kernel.shape[:2]):
      x, y = points[n, i, j, part, *tap]
      across = reference.weights(x, image.shape[1], **MODE)
      down = reference.weights(y, image.shape[0], **MODE)
      read = mask[n, i, j, part, *tap] * (down @ image @ across)
      result[n, i, j, f] += read * kernel[*tap, d, f]
  return result


class GroupsTest(parameterized.TestCase):
  """Modulation, stride, dilation, groups, and groups of offsets."""

  def arrays(self, groups, parts, *, stride=(2, 1), dilation=(1, 2)):
    features, kernel = normal(2, 6, 7, 4), normal(2, 3, 4 // groups, 8)
    points = deformation.regular_points(
      (6, 7), (2, 3), ((1, 0), (2, 1)), stride=stride, dilation=dilation
    )
    places = points.shape[:2]
    offsets = normal(2, *places, parts, 2, 3, 2, scale=1.5, seed=4)
    mask = np.random.default_rng(5).uniform(0, 1, offsets.shape[:-1])
    return features, np.asarray(points)[:, :, None], offsets, kernel, mask

  @parameterized.parameters((1, 1), (2, 1), (1, 2), (2, 4), (4, 2))
  def test_against_a_loop(self, groups, parts):
    features, points, offsets, kernel, mask = self.arrays(groups, parts)
    points = points + offsets
    expected = convolve_groups(features, points, kernel, mask)
    features, points, kernel, mask = single(features, points, kernel, mask)
    convolve = jax.jit(deformation.deformed_conv)
    found = convolve(features, points, kernel, mask=mask)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if parts == 1:
      found = convolve(
        features, points[:, :, :, 0], kernel, mask=mask[:, :, :, 0]
      )
      np.testing.assert_allclose(found, expected, atol=1e-4)

  @parameterized.parameters((1, 1), (2, 4), (4, 2))
  @pytest.mark.slow
  def test_against_onnx(self, groups, parts):
    features, points, offsets, kernel, mask = self.arrays(groups, parts)
    height, width = points.shape[:2]
    node = onnx.helper.make_node(
      "DeformConv",
      ["x", "w", "offset", "b", "mask"],
      ["y"],
      group=groups,
      offset_group=parts,
      pads=[1, 2, 0, 1],
      strides=[2, 1],
      dilations=[1, 2],
    )
    inputs = dict(
      x=features.transpose(0, 3, 1, 2),
      w=kernel.transpose(3, 2, 0, 1),
      offset=offsets[..., ::-1]
      .transpose(0, 3, 4, 5, 6, 1, 2)
      .reshape(2, -1, height, width),
      b=np.zeros(8),
      mask=mask.transpose(0, 3, 4, 5, 1, 2).reshape(2, -1, height, width),
    )
    expected = onnx.reference.ReferenceEvaluator(node).run(None, inputs)[0]
    features, points, kernel, mask = single(
      features, points + offsets, kernel, mask
    )
    found = deformation.deformed_conv(features, points, kernel, mask=mask)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-4)

  @parameterized.parameters(
    ("SAME", (2, 3), (1, 1)),
    ("SAME", 1, 2),
    ("VALID", 2, (2, 1)),
    (((1, 0), (2, 3)), (1, 2), (1, 1)),
  )
  @pytest.mark.slow
  def test_at_regular_points_it_is_a_convolution(
    self, padding, stride, dilation
  ):
    features, kernel = single(normal(2, 7, 6, 4), normal(2, 3, 2, 6))
    points = deformation.regular_points(
      (7, 6), (2, 3), padding, stride=stride, dilation=dilation
    )
    everywhere = jnp.broadcast_to(points, (2, *points.shape))
    found = deformation.deformed_conv(features, everywhere, kernel)
    expected = lax.conv_general_dilated(
      features,
      kernel,
      (stride, stride) if isinstance(stride, int) else stride,
      padding,
      rhs_dilation=(dilation,) * 2 if isinstance(dilation, int) else dilation,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
    )
    self.assertEqual(found.shape, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients_are_the_numerical_ones(self):
    features, points, offsets, kernel, mask = self.arrays(2, 4)
    places = np.floor(points[:2, :2] + offsets[:, :2, :2])
    points = places + np.random.default_rng(1).uniform(0.1, 0.9, places.shape)
    check_gradients(
      lambda f, p, k, m: deformation.deformed_conv(f, p, k, mask=m),
      features,
      points,
      kernel,
      mask[:, :2, :2],
    )

  @parameterized.parameters(
    (dict(mask=(2, 4, 4, 3, 3)), r"mask must have the shape of points"),
    (dict(kernel=(3, 3, 2, 5)), r"kernel must be .* a multiple of C / D = 2"),
    (dict(kernel=(3, 3, 3, 4)), r"features must be .*D a divisor of C"),
    (dict(points=(2, 4, 4, 3, 3, 3, 2)), r"points must be .*O a divisor of C"),
  )
  def test_shapes_that_do_not_fit_are_named(self, shapes, message):
    given = dict(
      features=(2, 5, 5, 4), points=(2, 4, 4, 2, 3, 3, 2), kernel=(3, 3, 2, 4)
    )
    arrays = {n: jnp.zeros(s) for n, s in {**given, **shapes}.items()}
    with self.assertRaisesRegex(ValueError, message):
      deformation.deformed_conv(**arrays)


class PointsTest(parameterized.TestCase):
  @parameterized.parameters(
    ((5, 7), (3, 3), "VALID", (0, 0)),
    ((5, 7), (3, 5), "SAME", (1, 2)),
    ((4, 4), (4, 1), "VALID", (0, 0)),
  )
  def test_regular_points(self, shape, kernel_shape, padding, pads):
    found = deformation.regular_points(shape, kernel_shape, padding)
    expected = lattice(*shape, kernel_shape, pads)
    np.testing.assert_array_equal(found, expected)

  @parameterized.parameters(
    (dict(padding="CAUSAL"), "padding='CAUSAL' is unknown.*'SAME'"),
    (dict(kernel_shape=(6, 2)), r"kernel_shape \(6, 2\) is larger.*\(5, 5\)"),
    (dict(kernel_shape=(0, 2)), "kernel_shape must be .*at least 1"),
    (dict(shape=(5,)), "shape must be"),
    (dict(dilation=3), r"kernel_shape \(3, 3\) is larger.*\(5, 5\)"),
    (dict(stride=0), "stride must be at least 1, got 0"),
    (dict(dilation=(1, 2, 3)), r"dilation must be an int or \(y, x\)"),
    (dict(padding=(1, 1)), r"padding must be .*\(left, right\)"),
    (dict(padding=((0, 0), (-1, 0))), "padding must be at least 0"),
  )
  def test_regular_points_checks(self, changed, message):
    given = dict(shape=(5, 5), kernel_shape=(3, 3), padding="VALID")
    with self.assertRaisesRegex(ValueError, message):
      deformation.regular_points(**{**given, **changed})

  @parameterized.parameters(
    ("affine", (3, 3)),
    ("projective", (2, 4)),
    ("rotation", (4, 1)),
    ("translation", (1, 1)),
  )
  @pytest.mark.slow
  def test_patches_against_a_loop(self, family, kernel_shape):
    points = deformation.regular_points((5, 6), kernel_shape, "SAME")
    count = transforms.num_params(family)
    thetas = transforms.matrix(
      normal(2, *points.shape[:2], count, scale=0.2), family
    )
    found = deformation.patch_points(points, thetas)
    expected = np.zeros(found.shape)
    middle = np.asarray(points, np.float64).mean(axis=(2, 3))
    for index in np.ndindex(2, *points.shape[:2]):
      grid = reference.grid(thetas[index], kernel_shape, align_corners=False)
      half = np.array(kernel_shape[::-1]) / 2
      expected[index] = middle[index[1:]] + grid * half
    np.testing.assert_allclose(found, expected, atol=1e-4)

  @parameterized.parameters((2, 3), (3, 3))
  @pytest.mark.slow
  def test_the_identity_moves_nothing(self, *shape):
    points = deformation.regular_points((9, 8), (5, 4), "VALID")
    thetas = jnp.broadcast_to(jnp.eye(*shape), (3, *points.shape[:2], *shape))
    np.testing.assert_array_equal(
      deformation.patch_points(points, thetas),
      np.broadcast_to(points, (3, *points.shape)),
    )

  @parameterized.parameters(2, 3)
  @pytest.mark.slow
  def test_a_quarter_turn_everywhere_turns_the_kernel(self, size):
    features, kernel = single(normal(2, 6, 7, 2), normal(size, size, 2, 3))
    points = deformation.regular_points((6, 7), (size, size), "VALID")
    turn = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    thetas = jnp.broadcast_to(turn, (2, *points.shape[:2], 2, 3))
    found = deformation.deformed_conv(
      features, deformation.patch_points(points, thetas), kernel
    )
    # The tap to the right reads below.
    turned = jnp.rot90(kernel, -1)
    self.assertTrue((turned[-1, -1] == kernel[0, -1]).all())
    np.testing.assert_allclose(
      found, ordinary(features, turned, "VALID"), atol=1e-5
    )

  @parameterized.parameters((4, 4, 2, 3), (3, 4, 4, 4), (3, 3, 2, 3), (2, 3))
  def test_thetas_that_do_not_fit(self, *shape):
    points = deformation.regular_points((5, 6), (3, 3), "VALID")  # 3 x 4
    with self.assertRaisesRegex(ValueError, "thetas must be|must be .*2, 3"):
      deformation.patch_points(points, jnp.zeros(shape))


class MeanTransformTest(parameterized.TestCase):
  @parameterized.parameters(((3, 3),), ((2, 5),), ((4, 2),))
  def test_against_least_squares(self, kernel_shape):
    regular = deformation.regular_points((7, 9), kernel_shape, "SAME")
    points = np.asarray(regular) + normal(2, *regular.shape)
    found = deformation.mean_transform(*single(points, regular), (20, 30))
    taps = np.asarray(regular[0, 0], np.float64).reshape(-1, 2)
    taps = taps - taps.mean(axis=0)
    maps = np.zeros((2, *regular.shape[:2], 2, 2))
    for index in np.ndindex(maps.shape[:3]):
      read = points[index].reshape(-1, 2)
      read = read - read.mean(axis=0)
      maps[index] = np.linalg.lstsq(taps, read)[0].T
    half = np.diag([15, 10])
    expected = np.linalg.inv(half) @ maps.mean(axis=(1, 2)) @ half
    np.testing.assert_allclose(found[..., :2], expected, atol=1e-5)
    np.testing.assert_array_equal(found[..., 2], 0)

  @pytest.mark.slow
  def test_of_one_theta_everywhere_it_is_that(self):
    """In the coordinates of an image that is not square."""
    regular = deformation.regular_points((8, 8), (3, 3), "VALID")
    turn = transforms.rotation(jnp.array(0.3)) + 0.1
    thetas = jnp.broadcast_to(turn, (1, 6, 6, 2, 3))
    points = deformation.patch_points(regular, thetas)
    found = deformation.mean_transform(points, regular, (40, 40))
    np.testing.assert_allclose(found[0, :, :2], turn[:, :2], atol=1e-6)
    found = deformation.mean_transform(points, regular, (40, 80))
    np.testing.assert_allclose(
      found[0, :, :2], turn[:, :2] * np.array([[1, 0.5], [2, 1]]), atol=1e-6
    )

  @parameterized.parameters((1, 1), (1, 3), (3, 1))
  def test_taps_in_a_row_leave_the_other_axis(self, *kernel_shape):
    regular = deformation.regular_points((4, 4), kernel_shape, "SAME")
    middle = regular.mean(axis=(2, 3), keepdims=True)
    points = (middle + 2 * (regular - middle))[None]
    found = deformation.mean_transform(points, regular, (4, 4))
    scales = [2.0 if taps > 1 else 1.0 for taps in kernel_shape[::-1]]
    np.testing.assert_allclose(found[0], np.eye(2, 3) * np.array([scales]).T)

  def test_of_regular_points_it_is_exactly_the_identity(self):
    regular = deformation.regular_points((5, 5), (3, 3), "SAME")
    found = deformation.mean_transform(regular[None], regular, (28, 20))
    np.testing.assert_array_equal(found[0], np.eye(2, 3))


class PredictorTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_a_predictor_stays_bearable_and_has_a_filter(self):
    for count, filters in ((10**8, 512), (1, 1)):
      net = predictors.OffsetPredictor(
        1, 1, "SAME", num_parameters=count, rngs=nnx.Rngs(0)
      )
      self.assertEqual(net.head.kernel.shape, (filters, 2))

  @parameterized.parameters("affine", "rotation", None)
  @pytest.mark.slow
  def test_untrained_it_returns_the_regular_points(self, family):
    options = dict(num_parameters=100, rngs=nnx.Rngs(0))
    if family:
      net = predictors.PatchPredictor(2, 3, "SAME", family=family, **options)
    else:
      net = predictors.OffsetPredictor(2, 3, "SAME", **options)
    (features,) = single(normal(2, 4, 5, 2))
    points = lattice(4, 5, (3, 3), (1, 1))
    np.testing.assert_array_equal(net(features), np.stack([points, points]))

  @parameterized.parameters(
    (dict(padding="CAUSAL"), "padding='CAUSAL' is unknown.*'SAME'"),
    (dict(family="euclid"), "family='euclid'"),
    (
      dict(
        family=transforms.Family(
          name="wave", num_params=lambda n: 2, grid=lambda p, shape: p
        )
      ),
      "wave",
    ),
  )
  def test_unknown_options(self, changed, message):
    options = {"channels": 1, "kernel_size": 3, "padding": "SAME", **changed}
    with self.assertRaisesRegex(ValueError, message):
      predictors.PatchPredictor(num_parameters=100, rngs=nnx.Rngs(0), **options)


if __name__ == "__main__":
  absltest.main()
