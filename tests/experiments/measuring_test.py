"""What runs measure, of predictions made by hand."""

import numpy as np
import pytest

from experiments.lib import measuring
from stnjax import data
import stnjax.paper  # noqa: F401, registers its perturbations
from stnjax.training.steps import Prediction

SHAPE = (60, 60, 1)
LABELS = np.arange(6) % 2


def passes(count, with_first=True):
  """Predictions of shifts: all undone, by the first run half of them."""
  rng = np.random.default_rng(0)
  found = []
  for _ in range(count):
    shift = rng.integers(-16, 17, (6, 2)).astype(np.float32)
    pose = np.tile(np.eye(2, 3, dtype=np.float32), (6, 1, 1))
    pose[:, :, 2] = shift / 30
    first = pose.copy()
    first[:, :, 2] /= 2
    truth = {"translation": shift}
    label = rng.integers(0, 2, 6)
    found.append(
      Prediction(np.zeros(6), label, pose, truth, first if with_first else None)
    )
  return found


def measure(perturbation, made, brief=False):
  measured = measuring.positions(perturbation, made, SHAPE)
  return measuring.summary(perturbation, made, measured, LABELS, brief)


@pytest.mark.slow
def test_alignment_is_of_the_whole_pose_and_the_authors_of_the_first_run():
  perturbation, made = data.PERTURBATIONS["translation"], passes(3)
  for field in ("std", "by_image"):
    found = measure(perturbation, made)["alignment"]["translation_x"][field]
    assert found == pytest.approx(0, abs=1e-4)
  for some, share in ((made, 59 / 120), (passes(3, with_first=False), 59 / 60)):
    found = measuring.authors_alignment(perturbation, some, LABELS, SHAPE)
    (axis,) = found.items()
    assert axis[0] == "translation" and axis[1]["unit"] == "px"
    assert axis[1]["slope"] == pytest.approx(-share)
    left = (1 - share) * axis[1]["none"]
    assert axis[1]["std"] == pytest.approx(left, rel=1e-5)


def test_the_first_pose_is_kept_where_it_differs():
  drawn = [(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1)))]
  kept = measuring.record(passes(2), {}, LABELS, drawn)
  np.testing.assert_array_equal(
    kept["first_pose"][..., 2], kept["pose"][..., 2] / 2
  )
  kept = measuring.record(passes(2, with_first=False), {}, LABELS, drawn)
  assert "first_pose" not in kept


def test_one_pass_has_no_invariance_and_an_epoch_s_line_is_short():
  perturbation = data.PERTURBATIONS["translation"]
  (line,) = [measure(perturbation, passes(1), brief=True)]
  assert set(line) == {"error", "alignment"}
  assert set(line["alignment"]) == {"translation_x", "translation_y"}
  assert line["alignment"]["translation_x"] == pytest.approx(0, abs=1e-4)
  once = measure(perturbation, passes(1))
  assert np.isnan(once["same_answer"])
  assert np.isnan(once["alignment"]["translation_x"]["by_image"])


def test_a_perturbation_of_one_s_own_has_no_authors():
  made = passes(2)
  own = data.Perturbation(
    name="own", draw=data.translate, axes=(data.TRANSLATION_X,)
  )
  assert measuring.authors_alignment(own, made, LABELS, SHAPE) == {}
  unknown = [one._replace(truth={}) for one in made]
  translation = data.PERTURBATIONS["translation"]
  found = measuring.authors_alignment(translation, unknown, LABELS, SHAPE)
  assert found == {}
