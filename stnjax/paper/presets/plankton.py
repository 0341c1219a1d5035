"""Plankton."""

from stnjax.paper import protocols
from stnjax.paper.presets.preset import QUICK, Preset, register

_PLANKTON_QUICK = {
  **QUICK,
  "dataset": "synthetic_plankton",
  "perturbation": "free_augmentation",
  "downsample": 2,
  "dropout": False,
  "epochs": 6,
  "eval_passes": 1,
}
_SYNTHETIC_PLANKTON = (
  "synthetic_plankton, generated outlines, instead of PlanktonSet"
)

register(
  Preset(
    name="plankton",
    title="Plankton with the small localisation net, by placement.",
    purpose="Tests claims 4, 5 and 6 on natural poses with augmentation.",
    minutes=12,
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
    networks=("STN-C0", "STN-SL4"),
    quick={**_PLANKTON_QUICK, "localisation": "large"},
    full={**protocols.PLANKTON, "localisation": "large"},
    stand_in=_SYNTHETIC_PLANKTON,
  ),
  Preset(
    name="plankton_depths",
    title="Plankton, error against the depth of the placement and iterations.",
    purpose=(
      "The authors' grid: tests claims 5, 6, 8 and 9."
      " `experiments.rotation_consistency` measures whether rotated images are"
      " brought to one pose."
    ),
    networks=(
      "CNN",
      "STN-C0",
      *(f"STN-{k}{d}" for k in ("C", "DL", "SL") for d in (2, 4, 7, 10)),
      *(f"STN-{k}{d}x2" for k in ("DL", "SL") for d in (2, 4)),
      "STN-C0x2",
      "STN-C0x3",
      "STN-SL7x2",
    ),
    quick={**_PLANKTON_QUICK, "batch_norm": False},
    full=protocols.PLANKTON,
    stand_in=_SYNTHETIC_PLANKTON,
  ),
)
