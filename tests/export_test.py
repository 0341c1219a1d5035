"""Exported programs: any batch size, read by other processes."""

import pathlib
import re
import subprocess
import sys

from absl.testing import absltest, parameterized
from flax import nnx
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import nn, sampling, transforms
from stnjax.nn import deformation

# Reads a program and its inputs, with jax and numpy alone.
READER = """
import sys, jax, numpy as np
from jax import export
program, inputs, outputs = sys.argv[1:]
exported = export.deserialize(open(program, "rb").read())
stored = np.load(inputs)
result = exported.call(*(stored[name] for name in sorted(stored.files)))
np.savez(outputs, *jax.tree.leaves(result))
assert "stnjax" not in sys.modules and "flax" not in sys.modules
"""

CALLS = {
  "warp": (stnjax.warp, (8, 9, 3), (2, 3)),
  "projective": (stnjax.warp, (8, 9, 3), (3, 3)),
  "antialias": (
    lambda image, theta: stnjax.warp(image, 2 * theta, antialias=True),
    (8, 9, 3),
    (2, 3),
  ),
  "volume": (stnjax.warp, (4, 5, 6, 1), (3, 4)),
  "gradient": (
    jax.grad(lambda image, theta: stnjax.warp(image, theta).sum(), (0, 1)),
    (8, 9, 3),
    (2, 3),
  ),
  "grid_sample": (stnjax.grid_sample, (8, 9, 3), (5, 4, 2)),
  "nearest": (
    lambda x, g: stnjax.grid_sample(x, g, method="nearest", padding="wrap"),
    (8, 9, 3),
    (5, 4, 2),
  ),
  "cubic": (
    lambda x, g: stnjax.grid_sample(x, g, method="cubic", padding="border"),
    (8, 9, 3),
    (5, 4, 2),
  ),
  "spline": (
    lambda x, g: stnjax.grid_sample(
      x, g, method="spline", padding="reflection"
    ),
    (8, 9, 3),
    (5, 4, 2),
  ),
  "splat": (lambda v, g: stnjax.splat(v, g, (6, 7)), (5, 4, 3), (5, 4, 2)),
  "resize": (lambda x: stnjax.resize(x, (4, 5), antialias=True), (8, 9, 3)),
  "velocity": (stnjax.velocity_grid, (5, 6, 2)),
  "spline_grid": (lambda o: stnjax.tps_grid(o, (6, 7)), (4, 4, 2)),
  "lens_grid": (
    lambda d: sampling.lens_grid(jnp.eye(3), d, (6, 7)),
    (5,),
  ),
  "deformed_conv": (
    lambda x, p: deformation.deformed_conv(x, p, jnp.ones((3, 2, 2, 4))),
    (6, 7, 4),
    (4, 5, 2, 3, 2, 2),
  ),
}  # fmt: skip


def near_identity(image, offset):
  """A warp that reads mostly inside."""
  num_axes = offset.shape[-1] - 1
  identity = jnp.eye(*offset.shape[-2:])
  theta = identity + 0.2 * jnp.tanh(offset) / num_axes
  return stnjax.warp(image, theta)


SIZED = {
  "warp": (stnjax.warp, ["b, h, w, 3", "b, 2, 3"]),
  "gradient": (
    lambda x, t: jax.vjp(near_identity, x, t)[1](x),
    ["b, h, w, 3", "b, 2, 3"],
  ),
  "projective": (near_identity, ["b, h, w, 3", "3, 3"]),
  "volume": (near_identity, ["b, d, h, w, 2", "b, 3, 4"]),
  "projective volume": (near_identity, ["d, h, w, 2", "4, 4"]),
  "gradient of volume": (
    lambda x, t: jax.vjp(near_identity, x, t)[1](x),
    ["d, h, w, 2", "3, 4"],
  ),
  "static output_shape": (
    lambda x, t: stnjax.warp(x, t, output_shape=(5, 6)),
    ["b, h, w, 3", "2, 3"],
  ),
  "symbolic output_shape": (
    lambda x, t, y: stnjax.warp(x, t, output_shape=y.shape),
    ["b, h, w, 3", "2, 3", "d, w"],
  ),
  "static image": (
    lambda x, t, y: stnjax.warp(x, t, output_shape=y.shape),
    ["b, 7, 6, 3", "2, 3", "d, w"],
  ),
  "label": (
    lambda x, t: stnjax.warp(jnp.round(9 * x).astype(int), t, method="label"),
    ["h, w, 1", "2, 3"],
  ),
  "uint8": (
    lambda x, t: stnjax.warp(
      jnp.exp(x).astype(jnp.uint8), t, padding=("border", "wrap")
    ),
    ["h, w, 1", "2, 3"],
  ),
  "hard": (
    lambda x, t: stnjax.warp(x, t, edge="hard", return_mask=True),
    ["h, w, 1", "2, 3"],
  ),
  "grid_sample": (
    lambda x, g: stnjax.grid_sample(x, g, padding="reflection"),
    ["b, h, w, 3", "b, d, w, 2"],
  ),
  "sample_pixels": (
    lambda x, g: sampling.sample_pixels(x, g, method="lanczos3"),
    ["b, h, w, 3", "b, d, w, 2"],
  ),
  "affine_grid": (
    lambda t, y: stnjax.affine_grid(t, y.shape, align_corners=True),
    ["b, 2, 3", "h, w"],
  ),
  "flow_grid": (stnjax.flow_grid, ["b, h, w, 2"]),
  "flow_grid of volume": (
    lambda x: stnjax.flow_grid(x, units="pixels", align_corners=True),
    ["b, d, h, w, 3"],
  ),
  "velocity_grid": (stnjax.velocity_grid, ["b, h, w, 2"]),
  "compose_flows": (sampling.compose_flows, ["h, w, 2", "b, h, w, 2"]),
  "family_grid": (
    lambda p, y: sampling.family_grid(0.1 * p, "velocity", y.shape),
    ["b, 72", "h, w"],
  ),
  "lens_grid": (
    lambda d, y: sampling.lens_grid(4 * jnp.eye(3), d, y.shape),
    ["4", "h, w"],
  ),
  "resize": (
    lambda x: stnjax.resize(x, (4, 5), method="cubic"),
    ["b, h, w, 3"],
  ),
  "resize to": (
    lambda x, y: stnjax.resize(x, y.shape, align_corners=True),
    ["h, w, 3", "d, w"],
  ),
}  # fmt: skip

SIZES = [
  dict(b=2, d=4, h=7, w=6),
  dict(b=3, d=2, h=1, w=8),
  dict(b=1, d=1, h=1, w=1),
]


def arrays(shapes, batch):
  rng = np.random.default_rng(0)
  return [rng.normal(size=(batch, *s)).astype(np.float32) for s in shapes]


def exported_for_any_batch(function, shapes):
  (batch,) = export.symbolic_shape("batch")
  specs = [jax.ShapeDtypeStruct((batch, *s), jnp.float32) for s in shapes]
  return export.export(jax.jit(function))(*specs)


def exported_for_any_size(function, shapes):
  scope = export.SymbolicScope()
  return export.export(jax.jit(function))(
    *(
      jax.ShapeDtypeStruct(
        export.symbolic_shape(shape, scope=scope), jnp.float32
      )
      for shape in shapes
    )
  )


def concrete(shape, sizes):
  """The sizes of a shape as `"b, h, w, 3"`."""
  names = (name.strip() for name in shape.split(","))
  return tuple(sizes.get(name) or int(name) for name in names)


def network():
  localiser = nn.LocalisationNet((16, 16, 1), 6, rngs=nnx.Rngs(0))
  transformer = nn.SpatialTransformer(localiser)
  head = nnx.Linear(256, 3, rngs=nnx.Rngs(1))

  def apply(images):
    warped, theta = transformer(images)
    return head(warped.reshape(images.shape[0], 256)), theta

  return apply


class ExportTest(parameterized.TestCase):
  def check(self, function, shapes):
    program = exported_for_any_batch(function, shapes)
    # Of what only this runtime knows nothing: sizes are checked on the way in.
    targets = set(re.findall(r"custom_call @(\w+)", program.mlir_module()))
    self.assertLessEqual(targets, {"shape_assertion"})
    read = export.deserialize(program.serialize())
    for batch in (1, 3):
      given = arrays(shapes, batch)
      expected = jax.jit(function)(*given)
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        read.call(*given),
        expected,
      )

  @parameterized.parameters("warp", "grid_sample")
  def test_programs_take_any_batch(self, name):
    self.check(CALLS[name][0], CALLS[name][1:])

  @parameterized.parameters(
    *(n for n in CALLS if n not in ("warp", "grid_sample"))
  )
  @pytest.mark.slow
  def test_programs_of_other_calls_take_any_batch(self, name):
    self.check(CALLS[name][0], CALLS[name][1:])

  @pytest.mark.slow
  def test_networks_take_any_batch(self):
    self.check(network(), [(16, 16, 1)])

  @pytest.mark.slow
  def test_another_process_reads_a_network(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    apply, images = network(), arrays([(16, 16, 1)], 5)[0]
    program = exported_for_any_batch(apply, [(16, 16, 1)])
    (folder / "program").write_bytes(program.serialize())
    np.savez(folder / "inputs.npz", images=images)
    paths = [folder / f for f in ("program", "inputs.npz", "outputs.npz")]
    subprocess.run([sys.executable, "-c", READER, *paths], check=True)
    stored = np.load(folder / "outputs.npz")
    for found, expected in zip(stored.values(), apply(images), strict=True):
      np.testing.assert_allclose(found, expected, atol=1e-5)

  def check_sizes(self, function, shapes):
    program = exported_for_any_size(function, shapes)
    read = export.deserialize(program.serialize())
    for sizes in SIZES:
      rng = np.random.default_rng(0)
      given = [
        rng.normal(size=concrete(shape, sizes)).astype(np.float32)
        for shape in shapes
      ]
      found, expected = read.call(*given), function(*given)
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
          a, b, atol=2e-5 * max(1, np.abs(b).max())
        ),
        found,
        expected,
      )

  @parameterized.parameters("warp", "flow_grid")
  def test_programs_take_any_image_size(self, name):
    self.check_sizes(*SIZED[name])

  @parameterized.parameters(
    *(n for n in SIZED if n not in ("warp", "flow_grid"))
  )
  @pytest.mark.slow
  def test_programs_of_other_calls_take_any_image_size(self, name):
    self.check_sizes(*SIZED[name])

  @parameterized.product(
    padding=("zeros", "constant", "border", "reflection", "wrap"),
    align_corners=(False, True),
  )
  @pytest.mark.slow
  def test_options_take_any_image_size(self, **options):
    if options["padding"] == "constant":
      options["fill_value"] = 0.5

    def function(image, offset):
      theta = jnp.eye(2, 3) + 0.13 * jnp.tanh(offset)
      return [
        stnjax.warp(image, theta, method=method, return_mask=True, **options)
        for method in ("nearest", "linear", "cubic")
      ]

    self.check_sizes(function, ["b, h, w, 2", "b, 2, 3"])

  @parameterized.product(
    sizes=((7, 6), (28, 28), (31, 47)), align_corners=(False, True)
  )
  def test_whole_pixel_shifts_are_exact_at_any_size(self, sizes, align_corners):
    def shifted(image, theta):
      return stnjax.warp(
        image, theta, padding="wrap", align_corners=align_corners
      )

    program = exported_for_any_size(shifted, ["h, w, 1", "2, 3"])
    image = np.random.default_rng(0).normal(size=(*sizes, 1))
    image = image.astype(np.float32)
    for x, y in ((0, 0), (1, -2), (15, 3)):
      theta = transforms.from_pixels(
        jnp.array([[1.0, 0, x], [0, 1, y]]), sizes, align_corners=align_corners
      )
      expected = np.roll(image, (-y, -x), (0, 1))
      np.testing.assert_array_equal(program.call(image, theta), expected)

  @pytest.mark.slow
  def test_another_process_reads_a_program_for_any_size(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    program = exported_for_any_size(*SIZED["warp"])
    (folder / "program").write_bytes(program.serialize())
    paths = [folder / f for f in ("program", "inputs.npz", "outputs.npz")]
    rng = np.random.default_rng(0)
    for height, width in ((5, 8), (9, 1)):
      image = rng.normal(size=(2, height, width, 3)).astype(np.float32)
      theta = rng.normal(size=(2, 2, 3)).astype(np.float32)
      np.savez(paths[1], a=image, b=theta)
      subprocess.run([sys.executable, "-c", READER, *paths], check=True)
      (found,) = np.load(paths[2]).values()
      expected = stnjax.warp(image, theta)
      np.testing.assert_allclose(found, expected, atol=1e-5)

  @parameterized.parameters(
    (
      lambda x: stnjax.warp(x, jnp.eye(2, 3), antialias=True),
      "image must have static spatial sizes with antialias=True",
    ),
    (
      lambda x: stnjax.warp(x, jnp.eye(2, 3), method="spline"),
      "image must have static spatial sizes with method='spline'",
    ),
    (
      lambda x: stnjax.warp(
        x, jnp.eye(2, 3), method="linearised", key=jax.random.key(0)
      ),
      "image must have static spatial sizes with method='linearised'",
    ),
    (
      lambda x: stnjax.resize(x, (4, 5), method="area"),
      "image must have static spatial sizes with .*'area'",
    ),
    (
      lambda x: stnjax.resize(jnp.ones((4, 4, 1)), x.shape[:2], antialias=True),
      "output_shape must have static spatial sizes with antialias",
    ),
    (
      lambda x: stnjax.tps_grid(jnp.zeros((3, 3, 2)), x.shape[:2]),
      "output_shape must have static spatial sizes",
    ),
    (
      lambda x: sampling.spline_coefficients(x),
      "image must have static spatial sizes",
    ),
    (
      lambda x: sampling.jacobian_determinant(x),
      "displacement must have static spatial sizes",
    ),
    (
      lambda x: stnjax.splat(x, x, x.shape[:2]),
      "output_shape must have static spatial sizes",
    ),
  )
  def test_calls_that_need_static_sizes_say_so(self, function, message):
    with self.assertRaisesRegex(TypeError, message):
      exported_for_any_size(function, ["h, w, 2"])

  def test_symbolic_channels_are_named(self):
    with self.assertRaisesRegex(TypeError, "image must have a static number"):
      exported_for_any_size(
        lambda x: stnjax.warp(x, jnp.eye(2, 3)), ["5, 5, c"]
      )

  def test_sizes_that_may_be_0_are_named(self):
    with self.assertRaisesRegex(ValueError, "image must have .* constraints"):
      exported_for_any_size(
        lambda x: stnjax.warp(x, jnp.eye(2, 3)), ["h - 1, w, 3"]
      )

  def test_kernels_that_need_static_sizes_say_so(self):
    with self.assertRaisesRegex(
      ValueError, "of symbolic sizes .* accepted: 'auto', 'gather'"
    ):
      exported_for_any_size(
        lambda x: stnjax.warp(x, jnp.eye(2, 3), implementation="matmul"),
        ["h, w, 3"],
      )


if __name__ == "__main__":
  absltest.main()
