"""The compiled code: which programs call it, and files that do not fit."""

import _ctypes
import functools
import pathlib
from unittest import mock
import warnings

from absl.testing import absltest
import jax
import jax.numpy as jnp
import pytest

from stnjax import sampling
from stnjax.sampling.kernels import library
from tests.sampling.kernels_test import compiled, without_compiler


class LoweringTest(absltest.TestCase):
  def text(self, sharding=None):
    image, points = jnp.ones((8, 4, 4, 1)), jnp.ones((8, 3, 3, 2))
    if sharding is not None:
      image, points = jax.device_put((image, points), sharding)
    # A new function, so that it is lowered anew.
    read = jax.jit(functools.partial(sampling.sample_pixels))
    return read.lower(image, points).as_text()

  @compiled
  def test_called_where_there_is_one_device(self):
    self.assertIn("stnjax_sampler_read", self.text())

  @compiled
  def test_called_by_each_device_of_a_pmap(self):
    read = jax.pmap(sampling.sample_pixels)
    operands = jnp.ones((4, 2, 4, 4, 1)), jnp.ones((4, 2, 3, 3, 2))
    self.assertIn("stnjax_sampler_read", read.lower(*operands).as_text())

  def test_not_called_where_xla_shares_out_the_batch(self):
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    text = self.text(jax.NamedSharding(mesh, jax.P("batch")))
    self.assertNotIn("custom_call @stnjax", text)

  def test_not_called_without_the_compiled_file(self):
    with without_compiler():
      self.assertNotIn("custom_call @stnjax", self.text())

  @pytest.mark.slow
  def test_one_scatter_on_gpus(self):
    """Also under `shard_map`, and without sums over devices."""
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split = jax.P("batch")

    def gradient(image, points):
      _, vjp = jax.vjp(sampling.sample_pixels, image, points)
      return vjp(jnp.ones((len(points), 3, 3, 1)) + 0 * image[:1, :1, :1])

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=split, out_specs=split)
    image, points = jnp.ones((8, 4, 4, 1)), jnp.ones((8, 3, 3, 2))
    for f in (gradient, mapped):
      traced = jax.jit(f).trace(image, points)
      text = traced.lower(lowering_platforms=("cuda",)).as_text()
      self.assertEqual(text.count('"stablehlo.scatter"'), 1)
      self.assertNotIn("all_reduce", text)


class RegistrationTest(absltest.TestCase):
  def test_a_missing_file_is_no_error(self):
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      self.assertFalse(library._register(pathlib.Path("/none.ffi")))

  def test_a_file_for_another_machine_is_named(self):
    path = pathlib.Path(self.create_tempfile(content="not a library").full_path)
    with self.assertWarnsRegex(RuntimeWarning, "slower on CPU: .*/.*file"):
      self.assertFalse(library._register(path))

  def test_a_file_of_another_version_is_named(self):
    with self.assertWarnsRegex(RuntimeWarning, "undefined symbol: stnjax"):
      self.assertFalse(library._register(pathlib.Path(_ctypes.__file__)))

  @compiled
  def test_a_file_for_another_jaxlib_is_named(self):
    path = pathlib.Path(library.__file__).with_name("libsampler.ffi")
    refusal = jax.errors.JaxRuntimeError("API version (0.5) is incompatible")
    with (
      mock.patch.object(jax.ffi, "register_ffi_target", side_effect=refusal),
      self.assertWarnsRegex(RuntimeWarning, r"\(0.5\).*no-build-isolation"),
    ):
      self.assertFalse(library._register(path))

  @compiled
  def test_a_file_for_a_newer_jaxlib_is_named_before_the_backend_starts(self):
    header = self.create_tempfile(
      "xla/ffi/api/c_api.h",
      "#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 1\n",
    )
    older = str(pathlib.Path(header.full_path).parents[3])
    path = pathlib.Path(library.__file__).with_name("libsampler.ffi")
    with (
      mock.patch.object(jax.ffi, "include_dir", lambda: older),
      mock.patch.object(jax.ffi, "register_ffi_target") as register,
      self.assertWarnsRegex(RuntimeWarning, r"jaxlib has 0\.1.*no-build-isola"),
    ):
      self.assertFalse(library._register(path))
    register.assert_not_called()


if __name__ == "__main__":
  absltest.main()
