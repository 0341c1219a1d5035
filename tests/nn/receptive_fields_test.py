"""Receptive fields of stacked windows, against what moves each feature."""

from absl.testing import absltest, parameterized
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import receptive_fields
from stnjax.nn.receptive_fields import Window


def apply(windows, x):
  """Sums over the windows of `[W]`."""
  for window in windows:
    x = lax.conv_general_dilated(
      x[None, :, None],
      jnp.ones((window.size, 1, 1)),
      (window.stride,),
      [(window.padding, max(window.size - 1 - window.padding, 0))]
      if window.padding
      else "VALID",
      dimension_numbers=("NWC", "WIO", "NWC"),
    )[0, :, 0]
  return x


class FieldTest(parameterized.TestCase):
  @parameterized.parameters(
    ((),),
    ((Window(9), Window(2, 2), Window(3)),),
    ((Window(5, padding=2), Window(2, 2), Window(3, padding=1)),),
    ((Window(3, padding=1), Window(3, 2), Window(4, padding=1)),),
    ((Window(1, 3), Window(4, 2)),),
  )
  @pytest.mark.slow
  def test_where_features_lie(self, windows):
    size = 40
    slopes = np.asarray(
      jax.jacobian(lambda x: apply(windows, x))(jnp.ones(size))
    )
    field = receptive_fields.receptive_field(windows)
    count = len(slopes)
    frame = receptive_fields.input_from_features(field, (7, count), (11, size))
    # Away from the border, which cuts fields off.
    for index in (count // 2 - 1, count // 2):
      seen = np.flatnonzero(slopes[index])
      first, step, reach = (pair[0] for pair in field)
      self.assertEqual(seen.min(), first + step * index - reach)
      self.assertEqual(seen.max(), first + step * index + reach)
      middle = (seen.min() + seen.max() + 1) / size - 1
      at = (2 * index + 1) / count - 1
      np.testing.assert_allclose(
        frame[0, 0] * at + frame[0, 2], middle, atol=1e-6
      )

  def test_axes_are_x_and_y(self):
    field = receptive_fields.ReceptiveField((1, 2), (2, 4), (3, 5))
    frame = receptive_fields.input_from_features(field, (3, 5), (20, 10))
    np.testing.assert_allclose(
      frame, [[2 * 5 / 10, 0, 11 / 10 - 1], [0, 4 * 3 / 20, 13 / 20 - 1]],
      atol=1e-6,
    )  # fmt: skip


if __name__ == "__main__":
  absltest.main()
