"""CIFAR-10."""

from stnjax.paper import protocols
from stnjax.paper.presets.preset import QUICK, Preset, register

_CIFAR_QUICK = {
  **QUICK,
  "dataset": "synthetic_digits",
  "dropout": False,
  "epochs": 4,
}
_CIFAR_NETWORKS = ("CNN", "STN-C0", "STN-C2", "STN-SL2")
_SYNTHETIC_DIGITS = "synthetic_digits, generated digits, instead of CIFAR-10"

register(
  Preset(
    name="cifar",
    title="CIFAR-10 without perturbation.",
    purpose="A control: there is little to undo.",
    minutes=4,
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
    networks=_CIFAR_NETWORKS,
    quick={
      **_CIFAR_QUICK,
      "perturbation": "light_augmentation",
      "eval_passes": 1,
    },
    full={**protocols.CIFAR, "perturbation": "light_augmentation"},
    stand_in=_SYNTHETIC_DIGITS,
  ),
)
