"""The guide's figure draws the values that it is given."""

import numpy as np
import pytest

from stnjax import plots


def draw(**changes):
  values = {
    "undone": np.array([[99.0, 60, 10], [97.0, 64, 14]]),
    "read": {"ridge": np.array([[0.1, 0.5, 0.6], [0.1, 0.7, 0.8]])},
    "residuals": {"STN-C0": [15.0, 17.0], "STN-C1": [40.0, 42.0]},
    "none": 52.0,
    "unit": "residual (deg)",
    **changes,
  }
  return plots.look_and_warp(["input", "block 1", "block 2"], **values)


def test_values():
  warp, look, found = draw().axes
  np.testing.assert_allclose(warp.lines[0].get_ydata(), [98, 62, 12])
  np.testing.assert_allclose(look.lines[0].get_ydata(), [0.1, 0.6, 0.7])
  seeds = [line.get_ydata() for line in found.lines[:2]]
  np.testing.assert_allclose(seeds, [[15, 17], [40, 42]])
  assert found.lines[2].get_ydata()[0] == 52
  ticks = [label.get_text() for label in found.get_xticklabels()]
  assert ticks == ["STN-C0", "STN-C1"]
  assert found.get_ylim()[1] > 52


def test_nothing_to_draw():
  with pytest.raises(ValueError, match="residuals must not be empty"):
    draw(residuals={})
  with pytest.raises(ValueError, match="read must not be empty"):
    draw(read={})
