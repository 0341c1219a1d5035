"""Four CPU devices for the tests of pmap, and float64 where a test asks."""

import gc
import itertools
import os
import pathlib
import tempfile

from absl import flags
import jax
import pytest

# What one test compiled another need not; scripts that tests start share it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  cache = tempfile.TemporaryDirectory(prefix="stnjax-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  jax.config.update("jax_compilation_cache_dir", cache.name)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Tests compile far more than they compute; scripts that they start run as
# users run them.
jax.config.update("jax_disable_most_optimizations", True)

flags.FLAGS.mark_as_parsed()  # pytest takes the command line
jax.config.update("jax_num_cpu_devices", 4)
if jax.__version_info__ < (0, 11):  # an XLA without the flag would not start
  given = os.environ.get("XLA_FLAGS")
  # Half the time to compile. Read once, when the backend starts: now.
  os.environ["XLA_FLAGS"] = f"{given or ''} --xla_cpu_use_fusion_emitters=false"
  jax.devices()
  del os.environ["XLA_FLAGS"]
  if given is not None:
    os.environ["XLA_FLAGS"] = given


@pytest.fixture
def x64():
  """Runs a test in double precision."""
  with jax.enable_x64(True):
    yield


_MOST_MAPPINGS = 15_000  # workers with far more of them crashed in LLVM
_tests = itertools.count(1)


def pytest_runtest_teardown():
  """Frees compiled programs: each holds several mappings of memory."""
  if next(_tests) % 20:  # counting takes milliseconds
    return
  mappings = pathlib.Path("/proc/self/maps")
  if mappings.exists() and mappings.read_bytes().count(b"\n") > _MOST_MAPPINGS:
    jax.clear_caches()
    gc.collect()
