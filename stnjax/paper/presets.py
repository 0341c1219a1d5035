"""The experiments of the paper as data: networks, and settings in two sizes.

`quick` takes minutes on 2 CPU cores and needs no data but what is embedded or
generated. `full` follows the paper and its published code, see
`stnjax.paper.protocols`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from stnjax import checks
from stnjax.paper import protocols
from stnjax.registry import Registry

SIZES = ("quick", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """An experiment: its networks, and how each size trains all of them.

  Attributes:
    name: Name of the preset.
    title: Data and what varies, in one line.
    purpose: Claims that it tests, see `stnjax.paper.claims`, and remarks.
    minutes: Time of the quick size for one seed on 2 cores of an AMD EPYC
      shared with other work, in minutes.
    result: Results of the quick size: means over 5 seeds unless it says one
      seed.
    networks: Names of the networks.
    quick: Settings of the quick size that differ from the defaults, by name.
    full: Settings of the full size that differ from the defaults, by name.
    stand_in: Data of the quick size in place of the paper's.
  """

  name: str
  title: str
  purpose: str
  minutes: int
  result: str
  networks: Sequence[str]
  quick: Mapping[str, Any]
  full: Mapping[str, Any]
  stand_in: str = ""

  def settings(self, size: str) -> list[dict[str, Any]]:
    """Settings of every network by name, for `stnjax.training`.

    Args:
      size: "quick" or "full".

    Returns:
      One mapping per network, of the settings that differ from the defaults.

    Raises:
      ValueError: For another size.
    """
    checks.option("size", size, SIZES)
    changes = self.quick if size == "quick" else self.full
    return [{"network": name, **changes} for name in self.networks]


# Tuned on a validation split with one or two networks of each preset. The batch
# norm after the transformer, an option of the paper, lies between blocks in
# networks that warp features, and before all blocks in the others: it may help
# the former to learn.
_QUICK = {
  "localisation_width": 0.5,
  "batch_norm": True,
  "batch_size": 32,
  "localisation_lr": 0.3,
}
_STREET_NUMBERS_QUICK = {
  **_QUICK,
  "dataset": "street_numbers",
  "perturbation": "none",
  "downsample": 2,
  "width": 0.125,
  "dropout": False,
  "epochs": 8,
  "eval_passes": 1,
}
_PLANKTON_QUICK = {
  **_QUICK,
  "dataset": "synthetic_plankton",
  "perturbation": "free_augmentation",
  "downsample": 2,
  "dropout": False,
  "epochs": 6,
  "eval_passes": 1,
}
_CIFAR_QUICK = {
  **_QUICK,
  "dataset": "synthetic_digits",
  "dropout": False,
  "epochs": 4,
}
_CIFAR_NETWORKS = ("CNN", "STN-C0", "STN-C2", "STN-SL2")
_DIGITS = "10,000 embedded digits of MNIST's 60,000"
_STREET_NUMBERS = "street_numbers, generated house numbers, instead of SVHN"
_SYNTHETIC_PLANKTON = (
  "synthetic_plankton, generated outlines, instead of PlanktonSet"
)
_SYNTHETIC_DIGITS = "synthetic_digits, generated digits, instead of CIFAR-10"

PRESETS: Registry[Preset] = Registry("preset")

for _preset in (
  Preset(
    name="rotation",
    title="MNIST rotated by up to 90 degrees.",
    purpose=(
      "Tests claims 1, 2, 4, 5, 6, 8 and 9. The quick size predicts rotations"
      " only."
    ),
    minutes=6,
    result=(
      "residual shares of STN-C0, DL1 and SL1 40 to 43 %, STN-C1 84 %; errors"
      " 4.8 to 5.0 %, STN-C1 8.7 %, CNN 9.5 %. Iterations did not help."
    ),
    networks=(
      "CNN",
      "STN-C0",
      "STN-C1",
      "STN-DL1",
      "STN-DL2",
      "STN-SL1",
      "STN-SL2",
      "STN-C0x2",
      "STN-SL1x2",
    ),
    quick={"family": "rotation", "epochs": 12},
    full={**protocols.MNIST, "perturbation": "rotation"},
    stand_in=_DIGITS,
  ),
  Preset(
    name="rotation_families",
    title="Rotated MNIST with transforms other than rotations.",
    purpose=(
      "Tests claim 10. The quick size predicts similarities, the full size"
      " affine transforms, as `rotation` does there."
    ),
    minutes=2,
    result="residual shares of STN-C0 50 %, STN-C1 93 %; errors 5.5 and 8.1 %.",
    networks=("STN-C0", "STN-C1"),
    quick={"family": "similarity", "epochs": 12},
    full={**protocols.MNIST, "perturbation": "rotation"},
    stand_in=_DIGITS,
  ),
  Preset(
    name="feature_warps",
    title="Rotated MNIST with warps of feature maps, patches and filter taps.",
    purpose=(
      "Tests claims 2 and 10 with STN-C at every depth, the convolutional"
      " spatial transformer of UCN, and deformable convolution, with"
      " localisation nets of similar size. `experiments.audit` audits the CNN."
    ),
    minutes=10,
    result=(
      "STN-C0 has a residual share of 40 % and an error of 4.9 %; residual"
      " shares of STN-C1 83 %, STN-C2, UCN1 and DEF1 95 to 103 %; errors 8.5,"
      " 9.2, 9.2 and 5.9 %, CNN 9.5 %. Deformable convolution reduces the error"
      " without aligning."
    ),
    networks=("CNN", "STN-C0", "STN-C1", "STN-C2", "STN-UCN1", "DEF1"),
    quick={"family": "rotation", "epochs": 12},
    full={**protocols.MNIST, "perturbation": "rotation"},
    stand_in=_DIGITS,
  ),
  Preset(
    name="translation",
    title="MNIST translated in a cluttered image.",
    purpose=(
      "Tests claims 1, 3, 5, 8 and 9 for translations, to which features are"
      " equivariant. The quick size predicts translations only, on images of"
      " half the size."
    ),
    minutes=4,
    result=(
      "residual shares of STN-C1 25 %, STN-C0 40 %, STN-SL1 54 %; errors 8.1,"
      " 17.6 and 25.6 %, CNN 35.4 %."
    ),
    networks=(
      "CNN",
      "STN-C0",
      "STN-C1",
      "STN-DL1",
      "STN-SL1",
      "STN-C0x2",
      "STN-SL1x2",
    ),
    quick={
      **_QUICK,
      "perturbation": "translation",
      "family": "translation",
      "downsample": 2,
      "epochs": 12,
      "eval_passes": 5,
    },
    full={**protocols.MNIST, "perturbation": "translation"},
    stand_in=_DIGITS,
  ),
  Preset(
    name="scale",
    title="MNIST scaled by 1/2 to 4 in a cluttered image.",
    purpose=(
      "Tests claims 1, 2, 4 and 5 for scalings. The quick size predicts"
      " scalings only, on images of half the size."
    ),
    minutes=5,
    result=(
      "residual shares of STN-C0, DL1 and SL1 28 to 30 %, STN-C1 60 %; errors"
      " 5.1 to 5.4 %, STN-C1 7.7 %, CNN 12.5 %."
    ),
    networks=("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1"),
    quick={
      **_QUICK,
      "perturbation": "scale",
      "family": "scale",
      "downsample": 2,
      "width": 0.125,
      "learning_rate": 0.003,
      "epochs": 4,
      "eval_passes": 5,
    },
    full={**protocols.MNIST, "perturbation": "scale"},
    stand_in=_DIGITS,
  ),
  Preset(
    name="house_numbers",
    title="House numbers, by placement.",
    purpose=(
      "Tests claims 4, 5, 6 and 7. Training of the quick size stops before"
      " convergence; it has no batch norm after the transformer, which for"
      " STN-C3 alone would lie between blocks of the classifier."
    ),
    minutes=12,
    result=(
      "whole-number errors CNN 80.2, STN-C0 79.6, STN-C3 80.4, STN-DL3 79.9,"
      " STN-SL3 78.9 %, +- 2 to 3; with the batch norm (79d68bf), STN-C3 had"
      " the lowest error."
    ),
    networks=("CNN", "STN-C0", "STN-C3", "STN-DL3", "STN-SL3"),
    quick={**_STREET_NUMBERS_QUICK, "batch_norm": False},
    full=protocols.HOUSE_NUMBERS,
    stand_in=_STREET_NUMBERS,
  ),
  Preset(
    name="house_numbers_depth",
    title="House numbers, error against the depth of the placement.",
    purpose=(
      "Tests claim 6: separate copies of layers and shared layers with"
      " increasing depth."
    ),
    minutes=12,
    result=(
      "early in training, one seed: errors CNN 93.2, STN-C0 92.7, STN-C 88.2"
      " to 89.9, STN-DL 91.5 to 92.4, STN-SL 92.3 to 92.6 %."
    ),
    networks=(
      "CNN",
      "STN-C0",
      *(f"STN-{k}{d}" for k in ("C", "DL", "SL") for d in (3, 6, 8)),
    ),
    quick={**_STREET_NUMBERS_QUICK, "epochs": 3},
    full=protocols.HOUSE_NUMBERS,
    stand_in=_STREET_NUMBERS,
  ),
  Preset(
    name="house_numbers_iterations",
    title="House numbers, several placements and iterations.",
    purpose="Tests claims 8 and 9.",
    minutes=15,
    result=(
      "early in training, one seed: errors STN-C0 93.0, C0x2 91.9, C0x3 91.9,"
      " SL3 93.3, SL3x2 92.4, SL0,3,6 91.7 %."
    ),
    networks=(
      "STN-C0",
      "STN-C0x2",
      "STN-C0x3",
      "STN-SL3",
      "STN-SL3x2",
      "STN-SL0,3,6",
    ),
    quick={**_STREET_NUMBERS_QUICK, "epochs": 3},
    full=protocols.HOUSE_NUMBERS,
    stand_in=_STREET_NUMBERS,
  ),
  Preset(
    name="house_numbers_growing",
    title="House numbers, iterations added during training.",
    purpose=(
      "Each addition halves the learning rate of localisation. There is no"
      " batch norm after the transformer, as added iterations would have none."
    ),
    minutes=6,
    result="early in training, one seed: errors STN-C0 92.6, STN-SL3 92.9 %.",
    networks=("STN-C0", "STN-SL3"),
    quick={
      **_STREET_NUMBERS_QUICK,
      "epochs": 3,
      "batch_norm": False,
      "more_iterations": (1, 2),
    },
    full={**protocols.HOUSE_NUMBERS, "more_iterations": (72, 144)},
    stand_in=_STREET_NUMBERS,
  ),
  Preset(
    name="plankton",
    title="Plankton with the small localisation net, by placement.",
    purpose="Tests claims 4, 5 and 6 on natural poses with augmentation.",
    minutes=12,
    result=(
      "one seed: errors CNN 10.9, STN-C0 11.3, STN-C4 9.5, STN-DL4 10.4, STN-"
      " SL4 11.8 %."
    ),
    networks=("CNN", "STN-C0", "STN-C4", "STN-DL4", "STN-SL4"),
    quick=_PLANKTON_QUICK,
    full=protocols.PLANKTON,
    stand_in=_SYNTHETIC_PLANKTON,
  ),
  Preset(
    name="plankton_large",
    title="Plankton with the large localisation net.",
    purpose=(
      "Tests whether a larger localisation net replaces depth: four layers"
      " instead of the two in `plankton`."
    ),
    minutes=5,
    result="one seed: errors STN-C0 10.0, STN-SL4 11.1 %.",
    networks=("STN-C0", "STN-SL4"),
    quick={**_PLANKTON_QUICK, "localisation": "large"},
    full={**protocols.PLANKTON, "localisation": "large"},
    stand_in=_SYNTHETIC_PLANKTON,
  ),
  Preset(
    name="cifar",
    title="CIFAR-10 without perturbation.",
    purpose="A control: there is little to undo.",
    minutes=4,
    result="one seed: errors CNN 15.4, STN-C0 11.1, C2 13.6, SL2 12.0 %.",
    networks=_CIFAR_NETWORKS,
    quick={**_CIFAR_QUICK, "perturbation": "none", "eval_passes": 1},
    full={**protocols.CIFAR, "perturbation": "none"},
    stand_in=_SYNTHETIC_DIGITS,
  ),
  Preset(
    name="cifar_rotation",
    title="CIFAR-10 rotated by up to 90 degrees.",
    purpose="Tests claims 1, 2 and 4 on natural images.",
    minutes=4,
    result=(
      "one seed: errors 34 to 36 %; every transformer stayed near the identity"
      " for all 4 epochs."
    ),
    networks=_CIFAR_NETWORKS,
    quick={**_CIFAR_QUICK, "perturbation": "rotation", "family": "rotation"},
    full={**protocols.CIFAR, "perturbation": "rotation"},
    stand_in=_SYNTHETIC_DIGITS,
  ),
  Preset(
    name="cifar_augmentation",
    title="CIFAR-10 with light augmentation while training.",
    purpose="A control with little to undo, as `cifar`.",
    minutes=4,
    result="one seed: errors CNN 28.0, STN-C0 21.9, C2 25.0, SL2 23.6 %.",
    networks=_CIFAR_NETWORKS,
    quick={
      **_CIFAR_QUICK,
      "perturbation": "light_augmentation",
      "eval_passes": 1,
    },
    full={**protocols.CIFAR, "perturbation": "light_augmentation"},
    stand_in=_SYNTHETIC_DIGITS,
  ),
):
  PRESETS.register(_preset.name, _preset)
