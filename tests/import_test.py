"""The array library depends on jax and numpy, and on nothing else."""

import subprocess
import sys

from absl.testing import absltest

SCRIPT = """
import sys
import jax, numpy
import jax.numpy
before = set(sys.modules)
import stnjax
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names))
print(*sorted(m for m in sys.modules if m.startswith("stnjax.")))
"""


class ImportTest(absltest.TestCase):
  def test_nothing_but_jax_and_numpy_is_imported(self):
    lines = subprocess.check_output(
      [sys.executable, "-c", SCRIPT], text=True
    ).splitlines()
    self.assertContainsSubset(lines[0].split(), {"stnjax", "jax", "numpy"})
    packages = {name.split(".")[1] for name in lines[1].split()}
    self.assertContainsSubset(
      packages,
      {
        "augmentation",
        "checks",
        "coordinates",
        "primitives",
        "promotion",
        "registry",
        "sampling",
        "transforms",
      },
    )


if __name__ == "__main__":
  absltest.main()
