"""Matrices of OpenCV, scikit-image and scipy make the same pictures."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from stnjax import coordinates, transforms
from tests.sampling import compiled
from tests.sampling.cases import random_theta


def asymmetric_image(shape=(40, 52)):
  """Smooth, with a blob off the middle and a ramp: every mix-up shows."""
  rows, columns = np.indices(shape).astype(np.float32)
  blob = np.exp(-((rows - 12) ** 2 + (columns - 33) ** 2 / 3) / 40)
  return (blob + 0.01 * columns + 0.003 * rows).astype(np.float32)


AFFINE = np.array([[0.9, 0.25, -3.0], [-0.2, 1.1, 4.0]])
PROJECTIVE = np.vstack([AFFINE, [0.002, -0.003, 1.0]])


class ConverterTest(parameterized.TestCase):
  """The same picture as the other library makes, away from its edges."""

  def check(self, theta, expected, image, align_corners):
    shape = expected.shape
    ours, mask = compiled.warp(
      image[..., None],
      theta,
      output_shape=shape,
      align_corners=align_corners,
      return_mask=True,
    )
    inside = np.asarray(mask) == 1
    self.assertGreater(inside.mean(), 0.4)
    # OpenCV rounds coordinates to a 32nd of a pixel.
    np.testing.assert_allclose(ours[inside][:, 0], expected[inside], atol=0.01)

  @parameterized.parameters(
    ("affine", True, True),
    ("projective", False, False),
  )
  @pytest.mark.slow
  def test_opencv(self, matrix, inverse_map, align_corners):
    cv2 = pytest.importorskip("cv2")
    image, (height, width) = asymmetric_image(), (33, 47)
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse_map else 0)
    if matrix == "affine":
      pixels, warp = AFFINE, cv2.warpAffine
    else:
      pixels, warp = PROJECTIVE, cv2.warpPerspective
    expected = warp(image, pixels, (width, height), flags=flags)
    theta = compiled.from_opencv(
      pixels,
      image.shape,
      (height, width),
      inverse_map=inverse_map,
      align_corners=align_corners,
    )
    self.check(theta, expected, image, align_corners)

  @parameterized.product(
    matrix=("affine", "projective"), align_corners=(False, True)
  )
  def test_skimage(self, matrix, align_corners):
    skimage = pytest.importorskip("skimage.transform")
    image, shape = asymmetric_image(), (33, 47)
    pixels = PROJECTIVE if matrix == "projective" else AFFINE
    inverse_map = np.vstack([AFFINE, [0, 0, 1]])
    if matrix == "projective":
      inverse_map = PROJECTIVE
    expected = skimage.warp(image, inverse_map, output_shape=shape, order=1)
    theta = compiled.from_pixels(
      pixels, image.shape, shape, align_corners=align_corners
    )
    self.check(theta, expected, image, align_corners)

  @parameterized.parameters(2, 3)
  def test_scipy(self, num_axes):
    # scipy's matrix is in array order.
    shape, output_shape = (20, 24, 18)[:num_axes], (15, 21, 17)[:num_axes]
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 2)
    linear = np.eye(num_axes) + 0.1 * rng.normal(size=(num_axes, num_axes))
    offset = rng.normal(size=num_axes)
    expected = scipy.ndimage.affine_transform(
      image, linear, offset, output_shape=output_shape, order=1
    )
    pixels = np.concatenate([linear, offset[:, None]], axis=1)
    pixels[:, :num_axes] = pixels[:, :num_axes][:, ::-1]
    theta = compiled.from_pixels(pixels[::-1], shape, output_shape)
    self.check(theta, expected, image, False)

  @parameterized.product(
    num_axes=(2, 3), projective=(False, True), align_corners=(False, True)
  )
  @pytest.mark.usefixtures("x64")
  def test_physical_places_against_a_loop(
    self, num_axes, projective, align_corners
  ):
    rng = np.random.default_rng(0)
    into, out = (5, 7, 6)[:num_axes], (4, 3, 8)[:num_axes]
    matrix = random_theta(rng, num_axes, projective)
    spacing, steps = rng.uniform(0.5, 3, (2, num_axes))
    origin, start = rng.normal(size=(2, num_axes))
    theta = compiled.from_physical(
      matrix,
      tuple(spacing),
      into,
      out,
      output_spacing=tuple(steps),
      origin=tuple(origin),
      output_origin=tuple(start),
      align_corners=align_corners,
    )
    pixels = rng.uniform(0, 3, (4, num_axes))
    ours = compiled.apply_to_points(
      theta,
      pixels,
      input_shape=into,
      output_shape=out,
      pull=True,
      align_corners=align_corners,
    )
    for pixel, found in zip(pixels, ours, strict=True):
      place = matrix @ [*(start + steps * pixel), 1]
      place = place[:num_axes] / (place[num_axes] if projective else 1)
      np.testing.assert_allclose(found, (place - origin) / spacing, atol=1e-10)

  @pytest.mark.slow
  def test_physical_anisotropic_volume_against_scipy(self):
    # A rotation by 0.3 about x, in millimetres, about the middle.
    shape, spacing = (12, 30, 24), np.array([0.7, 0.7, 1.9])  # x, y, z
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    turn = np.asarray(transforms.rotation(0.3, axis="x"))[:, :3]
    linear = (np.diag(1 / spacing) @ turn @ np.diag(spacing))[::-1, ::-1]
    middle = (np.array(shape) - 1) / 2
    expected = scipy.ndimage.affine_transform(
      image, linear, middle - linear @ middle, order=1
    )
    theta = transforms.from_physical(
      transforms.rotation(0.3, axis="x"), spacing, shape
    )
    self.check(theta, expected, image, False)

  @pytest.mark.slow
  def test_physical_rotation_of_a_rectangle_is_that_of_skimage(self):
    skimage = pytest.importorskip("skimage.transform")
    image = asymmetric_image((33, 47))
    expected = skimage.rotate(image, 25, order=1)
    turn = transforms.rotation(np.radians(25))
    theta = transforms.from_physical(turn, (1, 1), image.shape)
    self.check(theta, expected, image, False)
    # The same, in pixels.
    middle = coordinates.middle(image.shape)
    pixels = transforms.about(turn, middle)
    np.testing.assert_allclose(
      transforms.from_pixels(pixels, image.shape), theta, atol=1e-6
    )

  @parameterized.parameters(
    (
      ValueError,
      "spacing must be 2 finite numbers above 0",
      dict(spacing=(1,)),
    ),
    (ValueError, "spacing must be", dict(spacing=(1, 0))),
    (ValueError, "spacing must be", dict(spacing=(1, np.nan))),
    (TypeError, "spacing must be", dict(spacing="mm")),
    (ValueError, "output_spacing must be", dict(output_spacing=(1, -1))),
    (ValueError, "origin must be 2 finite", dict(origin=0)),
    (ValueError, "output_origin must be", dict(output_origin=(1, 2, 3))),
    (ValueError, "matrix must be", dict(matrix=np.eye(2))),
    (ValueError, r"input_shape must be \(H, W\)", dict(input_shape=(4, 4, 4))),
    (
      ValueError,
      "input_shape must have sizes of at least 2",
      dict(input_shape=(1, 4), align_corners=True),
    ),
  )
  @pytest.mark.slow
  def test_wrong_physical_arguments_are_named(self, error, message, arguments):
    call = dict(matrix=np.eye(3), spacing=(1, 1), input_shape=(4, 4))
    with self.assertRaisesRegex(error, message):
      transforms.from_physical(**{**call, **arguments})

  def test_traced_spacing_is_named(self):
    with self.assertRaisesRegex(TypeError, "spacing must be"):
      jax.jit(lambda s: transforms.from_physical(np.eye(3), s, (4, 4)))(
        np.ones(2)
      )

  @parameterized.parameters(
    ((4, 7), True, False),
    ((1, 5), False, False),
    ((2, 5), False, True),
    ((3, 4, 5), True, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_round_trip(self, shape, projective, align_corners):
    num_axes, rng = len(shape), np.random.default_rng(0)
    theta = rng.normal(size=(2, num_axes + projective, num_axes + 1))
    call = dict(
      input_shape=shape,
      output_shape=(5, 3, 2)[:num_axes],
      align_corners=align_corners,
    )
    pixels = compiled.to_pixels(theta, **call)
    np.testing.assert_allclose(compiled.from_pixels(pixels, **call), theta)

  @parameterized.parameters(
    ((37, 41), (30, 49), False, "from_pixels"),
    ((37, 41), (30, 49), True, "from_opencv"),
    ((1, 28), (5, 1), False, "from_pixels"),
  )
  @pytest.mark.slow
  def test_whole_pixels_are_copied_exactly(
    self, into, out, align_corners, function
  ):
    self.check_whole_pixels((into, out), align_corners, function)

  @parameterized.product(
    sizes=(((333, 1001), (333, 1001)), ((37, 41), (30, 49)), ((1, 28), (5, 1))),
    align_corners=(False, True),
    function=("from_pixels", "from_opencv"),
  )
  @pytest.mark.slow
  def test_whole_pixels_of_all_sizes_are_copied_exactly(
    self, sizes, align_corners, function
  ):
    self.check_whole_pixels(sizes, align_corners, function)

  def check_whole_pixels(self, sizes, align_corners, function):
    into, out = sizes
    if align_corners and 1 in into:
      into = (2, 28)
    image = np.random.default_rng(0).normal(size=(*into, 1)).astype(np.float32)
    call = dict(align_corners=align_corners)
    warp = jax.jit(
      lambda m: stnjax.warp(
        image,
        getattr(transforms, function)(m, into, out, **call),
        output_shape=out,
        return_mask=True,
        **call,
      )
    )
    rows, columns = np.indices(out)
    # The identity, shifts, a mirror, and a turn with a stretch; and multiples.
    for (a, b, x), (c, d, y) in (
      ((1, 0, 0), (0, 1, 0)),
      ((1, 0, 7), (0, 1, -3)),
      ((1, 0, into[1] - 2), (0, 1, 1 - into[0])),
      ((-1, 0, into[1] - 1), (0, 1, 2)),
      ((0, 1, 3), (-1, 0, into[0] // 2)),
    ):
      pixels = np.array([[a, b, x], [c, d, y], [0, 0, 1]])
      xs, ys = a * columns + b * rows + x, c * columns + d * rows + y
      inside = (xs >= 0) & (xs < into[1]) & (ys >= 0) & (ys < into[0])
      expected = np.where(
        inside, image[ys % into[0], xs % into[1], 0], np.float32(0)
      )
      if function == "from_opencv":
        pixels = np.linalg.inv(pixels).round()
      for matrix in (pixels[:2], pixels, 3 * pixels):
        moved, mask = warp(matrix.astype(np.float32))
        np.testing.assert_array_equal(mask, inside)
        np.testing.assert_array_equal(moved[..., 0], expected)

  @parameterized.parameters(False, True)
  @pytest.mark.slow
  def test_whole_pixels_at_some_sizes(self, align_corners):
    self.check_sizes((28, 41), align_corners)

  @parameterized.parameters(False, True)
  @pytest.mark.slow
  def test_whole_pixels_at_every_size(self, align_corners):
    self.check_sizes(range(1 + align_corners, 131), align_corners)

  def check_sizes(self, sizes, align_corners):
    rng = np.random.default_rng(0)
    for size in sizes:
      shifts = np.array([0, 1, -3, size // 2, 1 - size, rng.integers(size)])
      others = np.array([size, size + 3, size * 2, 2 * size // 3 + 1])
      other = int(rng.choice(others))
      call = dict(
        input_shape=(size, size),
        output_shape=(other, other),
        align_corners=align_corners,
      )
      pixels = np.tile(np.eye(2, 3, dtype=np.float32), (6, 1, 1))
      pixels[:, 0, 2], pixels[:, 1, 2] = shifts, -shifts
      theta = compiled.from_pixels(pixels, **call)
      np.testing.assert_array_equal(compiled.to_pixels(theta, **call), pixels)
      theta = compiled.from_opencv(pixels, **call)
      np.testing.assert_array_equal(
        compiled.to_pixels(theta, **call)[..., 2], -pixels[..., 2]
      )
      # As users write it: a shift over half the size, rounded once.
      units = 2 * shifts / max(size - align_corners, 1)
      theta = transforms.translation(np.stack([units, -units], axis=-1))
      call["output_shape"] = None
      np.testing.assert_array_equal(compiled.to_pixels(theta, **call), pixels)

  def test_gradient_of_conversions_at_whole_pixels(self):
    # 15.5 of 28 pixels come back as 15.5 only by agreement.
    theta = transforms.from_pixels(
      jnp.array([[1.0, 0, 15.5], [0, 1, 0]]), (28, 28)
    )
    slopes = jax.jit(jax.jacfwd(lambda t: transforms.to_pixels(t, (28, 28))))(
      theta
    )
    expected = np.zeros((2, 3, 2, 3))
    for row, column in np.ndindex(2, 3):
      expected[row, column, row, column] = 14 if column == 2 else 1
      if column < 2:
        expected[row, 2, row, column] = -13.5
    np.testing.assert_allclose(slopes, expected)

  @parameterized.parameters(
    (ValueError, "matrix must be", dict(matrix=np.eye(2))),
    (ValueError, r"input_shape must be \(H, W\)", dict(input_shape=(4,))),
    (ValueError, r"output_shape must be \(H", dict(output_shape=(4, 4, 4))),
    (TypeError, "align_corners must be", dict(align_corners=0)),
    (
      ValueError,
      "input_shape must have sizes of at least 2",
      dict(input_shape=(1, 4), align_corners=True),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    call = {"matrix": np.eye(3), "input_shape": (4, 4), **arguments}
    with self.assertRaisesRegex(error, message):
      transforms.from_pixels(**call)
    with self.assertRaisesRegex(error, message):
      transforms.from_opencv(**call, inverse_map=True)

  def test_wrong_options_are_named(self):
    with self.assertRaisesRegex(ValueError, r"matrix must be \[..., 2, 3\]"):
      transforms.from_opencv(np.eye(4), (4, 4))
    with self.assertRaisesRegex(TypeError, "inverse_map must be"):
      transforms.from_opencv(np.eye(3), (4, 4), inverse_map="yes")


if __name__ == "__main__":
  absltest.main()
