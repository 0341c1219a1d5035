"""Training under the strict modes of JAX gives the same results."""

from absl.testing import absltest, parameterized
import chex
import numpy as np
import pytest

from stnjax import data
import stnjax.paper  # noqa: F401, registers its data sets
from stnjax.training import building
from stnjax.training.settings import Settings
from tests.promotion_test import strictly


@pytest.mark.slow
class NetworksTest(parameterized.TestCase):
  @parameterized.parameters("STN-SL0,1", "STN-C1", "STN-UCN1", "DEF1", "GCNN")
  def test_training(self, name):
    def step():
      settings = Settings(network=name, width=0.1, batch_size=4)
      images = np.arange(8 * 28 * 28).reshape(8, 28, 28, 1).astype(np.uint8)
      setup = building.find(settings)
      trainer, states = building.build_trainer([settings], setup, images)
      examples = data.Examples(images, np.arange(8, dtype=np.int32))
      states = trainer.train(states, examples, 1)
      return states.params, trainer.evaluate(states, examples, 0)

    chex.assert_trees_all_close(strictly(step), step(), rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
