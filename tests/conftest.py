"""Four CPU devices for the tests of pmap, and float64 where a test asks."""

from absl import flags
import jax
import pytest

flags.FLAGS.mark_as_parsed()  # pytest takes the command line
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture
def x64():
  """Runs a test in double precision."""
  with jax.enable_x64(True):
    yield
