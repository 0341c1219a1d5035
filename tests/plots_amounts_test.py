"""Values against amounts: means, bands and the shaded range."""

import numpy as np
import pytest

from stnjax import plots

AMOUNTS = [-180.0, 0.0, 180.0]
PANELS = {
  "error (%)": {
    "CNN": np.array([[50.0, 5, 60], [54.0, 7, 62]]),
    "STN-C0": np.array([[40.0, 4, 50]]),
  },
  "residual (deg)": {"STN-C0": np.array([[90.0, 5, 100]])},
}


def draw(**changes):
  return plots.values_by_amount(
    AMOUNTS, **{"panels": PANELS, "label": "rotation (deg)", **changes}
  )


def test_means_and_bands():
  error, residual = draw(trained=[-90, 90]).axes
  np.testing.assert_allclose(error.lines[0].get_ydata(), [52, 6, 61])
  np.testing.assert_allclose(error.lines[1].get_ydata(), [40, 4, 50])
  np.testing.assert_allclose(residual.lines[0].get_xdata(), AMOUNTS)
  band = error.collections[0].get_paths()[0].vertices
  assert band[:, 1].min() == 5 and band[:, 1].max() == 62
  assert error.get_ylabel() == "error (%)"
  assert error.get_xlabel() == "rotation (deg)"
  shaded = (
    error.patches[0].get_extents().transformed(error.transData.inverted())
  )
  np.testing.assert_allclose([shaded.x0, shaded.x1], [-90, 90])
  assert not draw().axes[0].patches


def test_a_network_has_one_colour_in_all_panels():
  error, residual = draw().axes
  (line,) = [line for line in error.lines if line.get_label() == "STN-C0"]
  for name in ("color", "marker", "linestyle"):
    assert (
      getattr(line, f"get_{name}")()
      == getattr(residual.lines[0], f"get_{name}")()
    )
  assert line.get_color() != error.lines[0].get_color()


@pytest.mark.parametrize(
  "panels, message",
  [
    ({}, "panels must not be empty"),
    ({"error": {"CNN": np.ones((2, 4))}}, r"CNN must be \[S, 3\].*\(2, 4\)"),
  ],
)
def test_mistakes(panels, message):
  with pytest.raises(ValueError, match=message):
    draw(panels=panels)
