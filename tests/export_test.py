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
from stnjax import nn, sampling
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


def arrays(shapes, batch):
  rng = np.random.default_rng(0)
  return [rng.normal(size=(batch, *s)).astype(np.float32) for s in shapes]


def exported_for_any_batch(function, shapes):
  (batch,) = export.symbolic_shape("batch")
  specs = [jax.ShapeDtypeStruct((batch, *s), jnp.float32) for s in shapes]
  return export.export(jax.jit(function))(*specs)


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

  @parameterized.parameters("warp", "grid_sample", "resize")
  def test_symbolic_image_sizes_are_named(self, name):
    function, (_, _, channels), *others = CALLS[name]
    height, width = export.symbolic_shape("h, w")
    specs = [
      jax.ShapeDtypeStruct(s, jnp.float32)
      for s in ((height, width, channels), *others)
    ]
    with self.assertRaisesRegex(TypeError, r"image must have static spatial"):
      export.export(jax.jit(function))(*specs)


if __name__ == "__main__":
  absltest.main()
