"""The compiled kernel: every method, against weighted sums in NumPy."""

import functools
import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.sampling.kernels import compiled, library
from stnjax.sampling.methods import METHODS
from stnjax.sampling.padding import PADDINGS
from tests import reference
from tests.sampling.kernels_test import compiled as needs_library

SHAPES = {2: ((5, 6), (1, 4), (1, 1)), 3: ((4, 5, 6), (1, 3, 1))}


def row(position, size, method, padding, align_corners):
  """The weight of every pixel of an axis in the sample at a position."""
  options = dict(padding=padding, align_corners=align_corners)
  if method in ("nearest", "linear"):
    return reference.weights(position, size, method=method, **options)
  result, floor = np.zeros(size), int(np.floor(position))
  for place in range(floor - 1, floor + 3):
    pixel = reference.source(place, size, **options)
    if pixel is not None:
      result[pixel] += reference.kernel(position - place, method)
  return result


def expected(image, points, cotangent, *options):
  """Values, and the gradients of image and points by differences."""
  sizes = image.shape[-2::-1]

  def rows(axis, shift=0.0):
    places = points[:, axis] + shift
    return np.stack([row(p, sizes[axis], *options) for p in places])

  weights = [rows(axis) for axis in range(len(sizes))]
  names = "xyz"[: len(sizes)]
  taps = ",".join(f"p{name}" for name in names)
  pixels = f"{names[::-1]}c"
  values = np.einsum(f"{taps},{pixels}->pc", *weights, image)
  to_image = np.einsum(f"{taps},pc->{pixels}", *weights, cotangent)
  to_points, step = [], 1e-5
  for axis in range(len(sizes)):
    change = (rows(axis, step) - rows(axis, -step)) / (2 * step)
    moved = [*weights[:axis], change, *weights[axis + 1 :]]
    products = np.einsum(f"{taps},{pixels},pc->p", *moved, image, cotangent)
    to_points.append(products)
  return values, to_image, np.stack(to_points, -1)


def check(method, padding, align_corners, shape, channels, dtype):
  rng = np.random.default_rng(0)
  sizes = np.array(shape[::-1])
  image = rng.normal(size=(*shape, channels))
  points = rng.uniform(-2, 2, (70, len(shape))) * sizes + sizes / 2
  points = points.astype(dtype).astype(np.float64)
  cotangent = rng.normal(size=(len(points), channels))
  sample = functools.partial(
    compiled.sample,
    method=METHODS[method],
    padding=PADDINGS[padding],
    align_corners=align_corners,
  )

  def run(image, points, cotangent):
    values, vjp = jax.vjp(sample, image, points)
    return values, *vjp(cotangent)

  operands = image, points, cotangent
  found = jax.jit(run)(*(array.astype(dtype) for array in operands))
  wanted = expected(*operands, method, padding, align_corners)
  for ours, theirs in zip(found, wanted, strict=True):
    tolerance = 1e-8 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.usefixtures("x64")
@needs_library
class AgainstNumPyTest(parameterized.TestCase):
  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"),
    mode=(("zeros", False), ("reflection", True), ("wrap", False)),
    num_axes=(2, 3),
  )
  def test_methods(self, method, mode, num_axes):
    check(method, *mode, SHAPES[num_axes][0], 3, np.float64)

  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"),
    padding=("zeros", "border", "reflection", "wrap"),
    align_corners=(False, True),
    shape=(*SHAPES[2], *SHAPES[3]),
    dtype=(np.float32, np.float64),
  )
  @pytest.mark.slow
  def test_all_modes(self, shape, dtype, **mode):
    check(shape=shape, channels=2, dtype=dtype, **mode)

  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    channels=(1, 2, 3, 4, 7, 17),
    num_axes=(2, 3),
  )
  def test_channels(self, method, channels, num_axes):
    shape = SHAPES[num_axes][0]
    check(method, "zeros", False, shape, channels, np.float32)

  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    num_axes=(2, 3),
    count=(3, 200),  # few points are read another way
  )
  def test_bytes(self, method, num_axes, count):
    rng = np.random.default_rng(0)
    shape = SHAPES[num_axes][0]
    images = rng.integers(0, 256, (3, *shape, 2)).astype(np.uint8)
    points = rng.uniform(-2, 8, (3, count, num_axes)).astype(np.float32)
    cotangents = rng.normal(size=(3, count, 2)).astype(np.float32)
    sample = functools.partial(
      compiled.sample,
      method=METHODS[method],
      padding=PADDINGS["zeros"],
      align_corners=False,
    )

    @jax.jit
    @jax.vmap
    def run(image, points, cotangent):
      values, vjp = jax.vjp(lambda p: sample(image, p) + 0.0, points)
      return sample(image, points), *vjp(cotangent.astype(values.dtype))

    values, gradients = run(images, points, cotangents)
    kept = np.uint8 if method == "nearest" else np.float32
    self.assertEqual(values.dtype, kept)
    for i, (value, gradient) in enumerate(zip(values, gradients)):
      wanted, _, slope = expected(
        images[i].astype(np.float64),
        points[i].astype(np.float64),
        cotangents[i],
        method,
        "zeros",
        False,
      )
      np.testing.assert_allclose(value, wanted, atol=1e-3)
      np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-2)

  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    channels=(1, 3, 4, 9),
    num_axes=(2, 3),
  )
  def test_rounded_bytes(self, method, channels, num_axes):
    rng = np.random.default_rng(0)
    shape = SHAPES[num_axes][0]
    image = rng.integers(0, 256, (*shape, channels)).astype(np.uint8)
    points = rng.uniform(-2, 8, (300, num_axes)).astype(np.float32)
    points[:20] = np.array(shape[::-1]) - 1  # where no pixel follows
    values = jax.jit(
      functools.partial(
        compiled.sample,
        method=METHODS[method],
        padding=PADDINGS["zeros"],
        align_corners=False,
        rounds=True,
      )
    )(image, points)
    wanted, *_ = expected(
      image.astype(np.float64),
      points.astype(np.float64),
      np.zeros((300, channels)),
      method,
      "zeros",
      False,
    )
    self.assertEqual(values.dtype, np.uint8)
    np.testing.assert_allclose(values, np.clip(wanted, 0, 255), atol=0.501)

  def test_bytes_without_channels(self):
    image, points = jnp.zeros((4, 5, 0), jnp.uint8), jnp.ones((3, 2))
    for method in ("nearest", "linear"):
      values = compiled.sample(
        image,
        points,
        method=METHODS[method],
        padding=PADDINGS["zeros"],
        align_corners=False,
      )
      self.assertEqual(values.shape, (3, 0))

  def test_nearest_computes_no_gradient_of_coordinates(self):
    def loss(points):
      return compiled.sample(
        np.ones((4, 4, 1)),
        points,
        method=METHODS["nearest"],
        padding=PADDINGS["zeros"],
        align_corners=False,
      ).sum()

    text = jax.jit(jax.grad(loss)).lower(np.ones((3, 2))).as_text()
    self.assertNotIn("grad_coords", text)


_DIGEST = """
import hashlib, os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:int(sys.argv[1])]))
import jax, numpy as np, stnjax
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for method in ("nearest", "linear", "cubic"):
  for shape in ((5, 40, 50, 3), (3, 12, 20, 16, 2)):
    axes = len(shape) - 2
    image = rng.normal(size=shape).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (*shape[:-1], axes)).astype(np.float32)
    def run(image, grid):
      values, vjp = jax.vjp(
        lambda i, g: stnjax.grid_sample(i, g, method=method), image, grid
      )
      return values, *vjp(values)
    theta = np.eye(axes, axes + 1) + rng.normal(size=(len(image), axes, 1)) / 9
    warp = jax.jit(lambda i, t: stnjax.warp(i, t, method=method))
    theta = theta.astype(np.float32)
    warped = [warp(i, theta) for i in (image, (99 * image).astype(np.uint8))]
    gradients = jax.jit(jax.grad(lambda *a: (warp(*a) ** 2).sum(), (0, 1)))
    warped += gradients(image, theta)
    for array in (*jax.jit(run)(image, grid), *warped):
      digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
"""


class MachineTest(absltest.TestCase):
  @pytest.mark.slow
  @needs_library
  def test_same_bits_on_one_thread_and_two(self):
    digests = [
      subprocess.run(
        [sys.executable, "-c", _DIGEST, threads],
        check=True,
        capture_output=True,
        text=True,
      ).stdout
      for threads in ("1", "2")
    ]
    self.assertEqual(*digests)

  @pytest.mark.slow
  def test_sanitizers_find_nothing(self):
    compiler = shutil.which("g++")
    if compiler is None:
      self.skipTest("there is no g++ here")
    program = pathlib.Path(self.create_tempdir().full_path, "sanitized")
    source = pathlib.Path(__file__).with_name("sanitized.cc")
    flags = ["-std=c++17", "-O1", "-fopenmp-simd", "-DSTNJAX_ONE_PROCESSOR"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    include = f"-I{pathlib.Path(library.__file__).parent}"
    built = subprocess.run(
      [compiler, *flags, include, str(source), "-o", str(program)],
      capture_output=True,
      text=True,
    )
    if "cannot find" in built.stderr:
      self.skipTest("the compiler has no sanitizers")
    self.assertEqual(built.returncode, 0, built.stderr)
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    self.assertEqual((ran.returncode, ran.stdout), (0, "4002\n"), ran.stderr)


if __name__ == "__main__":
  absltest.main()
