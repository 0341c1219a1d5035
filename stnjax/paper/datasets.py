"""The data sets of the paper, and their stand-ins.

Importing this module registers them.
"""

import functools

import numpy as np

from stnjax.data import DATASETS, images, mnist
from stnjax.data.dataset import Statistics
from stnjax.data.house_numbers import BLANK, MAX_DIGITS
from stnjax.data.prepared import Prepared
from stnjax.paper import ringed_digits

_PLANKTON_SIZE = 95

_MNIST_STATISTICS = {
  "translation": ((0.0363,), (0.1870,)),
  "scale": ((0.0414,), (0.1751,)),
  "similarity": ((0.0353,), (0.1646,)),  # ours, of the embedded digits
  "ringed_digits": ringed_digits.NORMALISATION,
}
_MNIST_BACKBONES = {
  "translation": "mnist_translation",
  "scale": "mnist_scale",
  "similarity": "mnist_translation",
  "ringed_digits": "ring_reader",
}


def mnist_normalisation(
  perturbation: str, train_images: np.ndarray
) -> Statistics:
  """Mean and standard deviation of MNIST so perturbed, as the paper has them.

  Args:
    perturbation: Name of the perturbation.
    train_images: `[N, H, W, 1]`, uint8, the training images; not used.

  Returns:
    `(mean, std)`, a tuple of one float each.
  """
  del train_images
  base = perturbation.removesuffix("_undone")
  return _MNIST_STATISTICS.get(base, ((0.1307,), (0.3081,)))


def no_normalisation(perturbation: str, train_images: np.ndarray) -> Statistics:
  """Mean 0 and standard deviation 1: pixels stay in [0, 1].

  Args:
    perturbation: Name of the perturbation; not used.
    train_images: `[N, H, W, C]`, uint8, the training images.

  Returns:
    `(mean, std)`, a tuple of C floats each.
  """
  del perturbation
  channels = train_images.shape[-1]
  return (0.0,) * channels, (1.0,) * channels


def mnist_backbone(perturbation: str) -> str:
  """Name of the paper's classifier for MNIST so perturbed.

  Args:
    perturbation: Name of the perturbation.
  """
  return _MNIST_BACKBONES.get(perturbation.removesuffix("_undone"), "mnist")


def fit_plankton(image: np.ndarray) -> np.ndarray:
  """Inverts a photograph of plankton and fits it into a square, on black.

  Args:
    image: `[H, W, 1]`, uint8, of any size, dark on a light ground.

  Returns:
    `[95, 95, 1]`, uint8; see `images.fit`.
  """
  return images.fit(255 - image, _PLANKTON_SIZE)


# Builders import TFDS, so each is imported when a set is read.


def _svhn() -> type:
  from stnjax.data.tfds_builders import svhn

  return svhn.Svhn


def _street_numbers() -> type:
  from stnjax.data.synthetic import street_numbers

  return street_numbers.StreetNumbers


def _plankton() -> type:
  from stnjax.data.tfds_builders import plankton

  return plankton.Plankton


def _synthetic_plankton() -> type:
  from stnjax.data.synthetic import synthetic_plankton

  return synthetic_plankton.SyntheticPlankton


def _synthetic_digits() -> type:
  from stnjax.data.synthetic import synthetic_digits

  return synthetic_digits.SyntheticDigits


_MNIST = {
  "normalisation": mnist_normalisation,
  "backbone": mnist_backbone,
  "licence": mnist.LICENCE,
}
_house_numbers = functools.partial(
  Prepared, image_shape=(64, 64, 3), num_classes=BLANK + 1, heads=MAX_DIGITS
)
_small = functools.partial(Prepared, image_shape=(32, 32, 3), num_classes=10)

_SETS = (
  mnist.MNIST.dataset(title="MNIST", **_MNIST),
  mnist.SUBSET.dataset(title="MNIST (subset)", **_MNIST),
  _house_numbers(
    name="svhn",
    builder=_svhn,
    manual_dir="folder of the archives",
  ).dataset(
    title="SVHN",
    train_split="train+extra",
    backbone="house_numbers",
    licence="non-commercial use only",
  ),
  _house_numbers(
    name="street_numbers",
    builder=_street_numbers,
    generated=True,
  ).dataset(
    title="synthetic house numbers",
    backbone="house_numbers",
    licence=mnist.LICENCE,
  ),
  Prepared(
    name="plankton",
    image_shape=(_PLANKTON_SIZE, _PLANKTON_SIZE, 1),
    num_classes=121,
    resize=fit_plankton,
    builder=_plankton,
    manual_dir="folder of train/",
  ).dataset(backbone="plankton"),
  Prepared(
    name="synthetic_plankton",
    image_shape=(95, 95, 1),
    num_classes=20,
    builder=_synthetic_plankton,
    generated=True,
  ).dataset(backbone="plankton"),
  _small(name="cifar10").dataset(
    title="CIFAR-10", backbone="cifar", normalisation=no_normalisation
  ),
  _small(name="svhn_cropped").dataset(
    title="SVHN (cropped)",
    backbone="cifar",
    licence="non-commercial use only",
  ),
  _small(
    name="synthetic_digits",
    builder=_synthetic_digits,
    generated=True,
  ).dataset(backbone="cifar", licence=mnist.LICENCE),
)

for _set in _SETS:
  DATASETS.register(_set.name, _set)

# Older names.
DATASETS.register("drifters", DATASETS["synthetic_plankton"])
DATASETS.register("street_digits", DATASETS["synthetic_digits"])
