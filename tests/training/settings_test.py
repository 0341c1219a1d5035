"""Settings: what is accepted, and how what is not is named."""

import dataclasses
import json

from absl.testing import absltest, parameterized

from stnjax.training import settings
from stnjax.training.settings import Settings


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"network": "STN-Q1"}, "network='STN-Q1'"),
    ({"dataset": "my set"}, "dataset='my set'.*accepted: letters, digits"),
    ({"perturbation": "a\nb"}, "perturbation='a.nb'.*accepted: letters"),
    ({"backbone": "*"}, r"backbone='\*'.*accepted: letters, digits"),
    ({"padding": "constant"}, "padding='constant'"),
    ({"optimiser": "lion"}, "optimiser='lion'"),
    ({"schedule": "linear"}, "schedule='linear'"),
    ({"epochs": 0}, "epochs must be positive and finite, got 0"),
    ({"batch_size": -4}, "batch_size must be positive"),
    ({"downsample": 0}, "downsample must be positive"),
    ({"image_size": 0}, "image_size must be positive"),
    ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ({"learning_rate": float("nan")}, "learning_rate must be positive"),
    ({"localisation_lr": float("inf")}, "localisation_lr must be positive"),
    ({"pre_transformer_lr": 0.0}, "pre_transformer_lr must be positive"),
    ({"width": 0.0}, "width must be positive"),
    ({"width": float("nan")}, "width must be positive"),
    ({"parameters": 0}, "parameters must be positive"),
    (
      {"parameters": 9000, "width": 0.5},
      "parameters=9000 chooses the width.*width=0.5; leave one of them out",
    ),
    ({"train_images": 0}, "train_images must be positive"),
    ({"localisation_width": -1.0}, "localisation_width must be positive"),
    ({"localisation": "huge"}, "localisation='huge'.*'large'"),
    ({"init": "zeros"}, "init='zeros'.*'torch'"),
    ({"momentum": 1.0}, "momentum must be less than 1, got 1.0"),
    ({"momentum": -0.1}, "momentum must not be negative, got -0.1"),
    ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ({"weight_decay": float("nan")}, "weight_decay must not be negative"),
    ({"norm_average": 1.0}, "norm_average must be less than 1, got 1.0"),
    ({"norm_average": 0.0}, "norm_average must be positive"),
    ({"nesterov": True}, "nesterov=True needs optimiser='sgd'.*'adam'"),
    (
      {"nesterov": True, "optimiser": "sgd", "momentum": 0.0},
      "nesterov=True needs.*momentum=0.0",
    ),
    (
      {"lr_drop_steps": (3, 2), "schedule": "step"},
      "lr_drop_steps must be positive and rise",
    ),
    ({"lr_drop_steps": (3,)}, "lr_drop_steps.*schedule='step', got.*'cosine'"),
    ({"localisation_scheme": "all"}, "localisation_scheme='all'.*'gradient'"),
    ({"eval_passes": 10_001}, "eval_passes must be at most 10,000"),
    ({"more_iterations": (0,)}, "more_iterations must be positive and rise"),
    ({"more_iterations": (-1, 2)}, "more_iterations must be positive and rise"),
    ({"more_iterations": (3, 3)}, "more_iterations must be.*rise, got .3, 3."),
    ({"more_iterations": (5, 2)}, "more_iterations must be positive and rise"),
    ({"more_iterations": (30,)}, "more_iterations must be less than epochs=30"),
    (
      {"network": "CNN", "more_iterations": (3,)},
      "more_iterations: CNN has no transformer",
    ),
    (
      {"network": "DEF1", "more_iterations": (3,)},
      "more_iterations: DEF1 has no transformer.*accepted: STN-C",
    ),
    (
      {"network": "STN-UCN1", "more_iterations": (3,)},
      "more_iterations: STN-UCN1",
    ),
    ({"seed": -1}, "seed must not be negative"),
    ({"seed": 2**32}, "seed must be at most 4,294,967,295"),
    ({"batch_size": 2**31}, "batch_size must be at most 2,147,483,647"),
    (
      {"pre_transformer_lr": 1e39},
      "pre_transformer_lr must be at most 3.4e.38",
    ),
    ({"localisation_lr": 1e-40}, "localisation_lr must be at least 1.18e-38"),
    (
      {"network": "STN-SL1x30", "more_iterations": (1, 2, 3)},
      "more_iterations must name at most 2 epochs",
    ),
  )
  def test_values_are_checked_by_name(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      Settings(**values)

  @parameterized.parameters(
    ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
    ({"width": "1"}, "width must be a number, got '1'"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"parameters": 9e3}, "parameters must be a whole number, got 9000.0"),
    ({"image_size": 8.5}, "image_size must be a whole number, got 8.5"),
    ({"dataset": None}, "dataset must be a string, got None"),
    ({"dropout": 1}, "dropout must be True or False"),
    ({"norm_average": "0.9"}, "norm_average must be a number, got '0.9'"),
    ({"lr_drop_steps": (1.5,)}, "lr_drop_steps must be whole numbers"),
    ({"more_iterations": (1.5,)}, "more_iterations must be whole numbers"),
    ({"more_iterations": [1]}, "more_iterations must be whole numbers"),
  )
  def test_types_are_checked_by_name(self, values, message):
    with self.assertRaisesRegex(TypeError, message):
      Settings(**values)

  def test_values_that_are_accepted(self):
    for values in (
      {"padding": None},
      {"padding": "zeros"},
      {"image_size": None},
      {"image_size": 64},
      {"parameters": 9000, "train_images": 100},
      {"more_iterations": (1, 2, 9)},
      {"dataset": "svhn", "perturbation": "none"},
      {"dataset": "tfds:flowers/big:1.0.0"},
      {"dataset": "plankton", "localisation": "large"},
      {"localisation_scheme": "gradient"},
      {"localisation": None, "init": "torch"},
      {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 1e-4},
      {"optimiser": "sgd", "nesterov": True},
      {"norm_average": 0.9},
      {"schedule": "step", "lr_drop_steps": (2, 5)},
    ):
      Settings(**values)

  def test_names_are_not_looked_up(self):
    """Finished runs are read where nothing is registered."""
    Settings(dataset="theirs", perturbation="its", backbone="mine", family="f")

  def test_they_come_back_from_json(self):
    given = Settings(
      padding="zeros",
      more_iterations=(2, 5),
      image_size=32,
      norm_average=0.9,
      schedule="step",
      lr_drop_steps=(10, 20),
    )
    text = json.dumps(dataclasses.asdict(given))
    self.assertEqual(settings.from_json(json.loads(text)), given)

  @parameterized.parameters(
    ({"nework": "CNN"}, TypeError, "nework"),
    ({"epochs": "3"}, TypeError, "epochs must be a whole number, got '3'"),
    ({"epochs": -3}, ValueError, "epochs must be positive"),
  )
  def test_json_of_other_settings_is_refused(self, values, error, message):
    with self.assertRaisesRegex(error, message):
      settings.from_json(values)


class NameTest(absltest.TestCase):
  def test_runs_of_a_sweep_have_different_names(self):
    names = {
      Settings(
        network=n,
        family=f,
        backbone=b,
        parameters=p,
        train_images=i,
        learning_rate=lr,
        seed=s,
      ).name
      for n in ("CNN", "STN-C1")
      for p in (None, 9000)
      for i in (None, 100)
      for f in ("affine", "rotation")
      for b in ("", "plain")
      for lr in (1e-3, 1e-2)
      for s in (0, 1)
    }
    self.assertLen(names, 128)

  def test_a_name_is_one_folder(self):
    for name in ("dataset", "perturbation", "backbone", "family"):
      self.assertNotIn("/", Settings(**{name: "../flowers/big:1.0.0"}).name)


if __name__ == "__main__":
  absltest.main()
