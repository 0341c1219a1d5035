"""Descriptions of tasks, as run folders keep them."""

import copy
import json

from absl.testing import absltest, parameterized
import numpy as np

from stnjax import data
import stnjax.paper  # noqa: F401, registers its perturbations
from stnjax.training import description

WHOLE = {
  "title": "translated bars",
  "image_shape": [60, 60, 1],
  "num_classes": 2,
  "heads": 1,
  "class_names": ["bar", "disc"],
  "axes": {
    "rotation": {"unit": "deg", "period": 360},
    "translation_x": {"unit": "px", "period": None},
  },
}


def shifted():
  images = np.zeros((8, 28, 28, 1), np.uint8)
  return data.from_arrays(
    "bars",
    (images, np.arange(8) % 2),
    (images, np.arange(8) % 2),
    class_names=("bar", "disc"),
  )


class DescriptionTest(parameterized.TestCase):
  def test_it_describes_a_data_set_under_a_perturbation(self):
    found = description.describe(shifted(), data.PERTURBATIONS["translation"])
    self.assertEqual(found.title, "translated bars")
    self.assertEqual(found.image_shape, (60, 60, 1))
    self.assertEqual((found.num_classes, found.heads), (2, 1))
    self.assertEqual([found.class_name(k) for k in (0, 1)], ["bar", "disc"])
    self.assertEqual(list(found.axes), ["translation_x", "translation_y"])
    self.assertEqual(found.axes["translation_x"].unit, "px")

  def test_classes_without_names_have_numbers(self):
    found = description.describe(
      data.find("mnist_subset"), data.PERTURBATIONS["rotation"]
    )
    nameless = description.TaskDescription((28, 28, 1), 10)
    self.assertEqual(nameless.class_name(3), "3")
    self.assertEqual(found.axes["rotation"].period, 360)

  @parameterized.parameters("rotation", "translation", "scale", "none")
  def test_it_comes_back_from_json(self, name):
    given = description.describe(shifted(), data.PERTURBATIONS[name])
    text = json.dumps(given.to_json())
    self.assertEqual(description.from_json(json.loads(text)), given)

  @parameterized.parameters(
    *({"missing": name} for name in WHOLE),
    {"image_shape": [60, 60]},
    {"image_shape": [60, 0, 1]},
    {"image_shape": [60, 60, "one"]},
    {"image_shape": 60},
    {"num_classes": 0},
    {"num_classes": None},
    {"num_classes": "ten"},
    {"num_classes": float("inf")},
    {"heads": 0},
    {"heads": [1]},
    {"class_names": ["bar"]},
    {"class_names": 2},
    {"axes": ["rotation"]},
    {"axes": {"rotation": None}},
    {"axes": {"rotation": {"unit": "deg"}}},
    {"axes": {"rotation": {"period": 360}}},
    {"axes": {"rotation": {"unit": "deg", "period": -1}}},
    {"axes": {"rotation": {"unit": "deg", "period": "360"}}},
  )
  def test_damage_is_named(self, missing=None, **changes):
    values = {**copy.deepcopy(WHOLE), **changes}
    values.pop(missing, None)
    with self.assertRaisesRegex(ValueError, "task is damaged"):
      description.from_json(values)
    description.from_json(WHOLE)

  @parameterized.parameters([[1, 2]], ["text"], [3])
  def test_what_is_no_task_is_named(self, values):
    with self.assertRaisesRegex(ValueError, "task is damaged"):
      description.from_json(values)

  def test_a_run_of_an_older_version_is_named(self):
    with self.assertRaisesRegex(ValueError, "older version"):
      description.from_json({})


if __name__ == "__main__":
  absltest.main()
