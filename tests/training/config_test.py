"""config.json: settings, task and images of a run, and its damage."""

import dataclasses
import json
import os
import pathlib

from absl.testing import absltest, parameterized
import numpy as np

from stnjax.files import Damaged
from stnjax.training import config
from stnjax.training.config import Config
from stnjax.training.description import AxisDescription, TaskDescription
from stnjax.training.settings import Settings

SETTINGS = Settings(
  network="STN-SL1", more_iterations=(2, 5), localisation_width=0.5
)
TASK = TaskDescription(
  (12, 16, 3),
  2,
  class_names=("bar", "disc"),
  axes={"rotation": AxisDescription("rotation", "deg", 360.0)},
  title="rotated shapes",
)


class ConfigTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    workdir = self.create_tempdir().full_path
    self.folder = pathlib.Path(config.folder(workdir, SETTINGS))
    self.folder.mkdir()
    self.path = self.folder / "config.json"
    self.path.write_text(Config(SETTINGS, TASK, "crc32 0123abcd").to_json())

  def test_all_comes_back(self):
    found = config.read(self.folder)
    self.assertEqual(found, Config(SETTINGS, TASK, "crc32 0123abcd"))

  def test_the_task_is_written_for_other_programs(self):
    values = json.loads(self.path.read_text())
    self.assertEqual(
      values["task"],
      {
        "title": "rotated shapes",
        "image_shape": [12, 16, 3],
        "num_classes": 2,
        "heads": 1,
        "class_names": ["bar", "disc"],
        "axes": {"rotation": {"unit": "deg", "period": 360.0}},
      },
    )
    self.assertEqual(values["learning_rate"], 1e-3)

  def test_a_network_without_a_transformer_measures_along_no_axis(self):
    self.assertEqual(config.read(self.folder).axes, TASK.axes)
    cnn = dataclasses.replace(SETTINGS, network="CNN", more_iterations=())
    self.assertEqual(Config(cnn, TASK).axes, {})

  def edit(self, **changes):
    values = json.loads(self.path.read_text())
    for name, value in changes.items():
      del values[name]
      if value is not None:
        values[name] = value
    self.path.write_text(json.dumps(values))

  @parameterized.parameters(
    ({"task": None}, "older version of stnjax"),
    ({"task": {"image_shape": [3]}}, "its task is damaged"),
    ({"task": "text"}, "its task is damaged"),
    ({"epochs": -1}, "epochs must be positive"),
    ({"epochs": "1"}, "epochs must be a whole number"),
    ({"network": "CNN"}, "more_iterations: CNN"),
  )
  def test_damage_is_named_with_advice(self, changes, message):
    self.edit(**changes)
    with self.assertRaisesRegex(Damaged, f"config.json.*{message}") as caught:
      config.read(self.folder)
    self.assertIn(f"delete {self.folder}", str(caught.exception))

  def test_a_folder_with_another_name_is_named(self):
    self.edit(seed=3)
    with self.assertRaisesRegex(Damaged, "run named STN-SL1.*seed_3.*rename"):
      config.read(self.folder)

  @parameterized.parameters("", "{", "3", "[]", "null", '{"epochs": NaN}')
  def test_what_is_no_config_is_named(self, text):
    self.path.write_text(text)
    with self.assertRaisesRegex(Damaged, "cannot read .*config.json"):
      config.read(self.folder)

  def test_a_missing_file_is_named(self):
    self.path.unlink()
    with self.assertRaisesRegex(Damaged, "config.json"):
      config.read(self.folder)

  def test_changes_are_the_settings_that_differ(self):
    before = config.read(self.folder)
    self.assertEqual(config.changes(before, SETTINGS), "")
    now = dataclasses.replace(SETTINGS, epochs=7, padding="zeros")
    self.assertEqual(
      config.changes(before, now),
      "padding: None there, zeros here, epochs: 30 there, 7 here",
    )


class FolderTest(absltest.TestCase):
  def test_a_bucket_is_no_local_folder(self):
    folder = config.folder("gs://bucket/runs", SETTINGS)
    self.assertEqual(os.fspath(folder), f"gs://bucket/runs/{SETTINGS.name}")

  def test_another_place_is_refused(self):
    with self.assertRaisesRegex(ValueError, "workdir='http://.*accepted"):
      config.folder("http://host/runs", SETTINGS)


class FingerprintTest(absltest.TestCase):
  def test_it_differs_for_other_images_alone(self):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 1), np.uint8)
    other = images.copy()
    other[3, 4, 5] ^= 1
    found = config.fingerprint(images)
    self.assertEqual(found, config.fingerprint(images.copy()))
    self.assertEqual(found, config.fingerprint(np.asfortranarray(images)))
    self.assertNotEqual(found, config.fingerprint(other))
    self.assertNotEqual(found, config.fingerprint(images[::-1]))


if __name__ == "__main__":
  absltest.main()
