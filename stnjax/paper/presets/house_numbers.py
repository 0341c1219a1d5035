"""House numbers."""

from stnjax.paper import protocols
from stnjax.paper.presets.preset import QUICK, Preset, register

_STREET_NUMBERS_QUICK = {
  **QUICK,
  "dataset": "street_numbers",
  "perturbation": "none",
  "downsample": 2,
  "width": 0.125,
  "dropout": False,
  "epochs": 8,
  "eval_passes": 1,
}
_STREET_NUMBERS = "street_numbers, generated house numbers, instead of SVHN"

register(
  Preset(
    name="house_numbers",
    title="House numbers, by placement.",
    purpose=(
      "Tests claims 4, 5, 6 and 7. Training of the quick size stops before"
      " convergence; it has no batch norm after the transformer, which for"
      " STN-C3 alone would lie between blocks of the classifier."
    ),
    minutes=12,
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
    name="house_numbers_small",
    title="House numbers with the small localisation net, by depth.",
    purpose=(
      "Tests claims 5, 6 and 7 where localisation is dense, so that only deeper"
      " features bring convolutions into it."
    ),
    minutes=15,
    networks=(
      "CNN",
      "STN-C0",
      *(f"STN-{k}{d}" for k in ("DL", "SL") for d in (1, 2, 3)),
    ),
    quick={
      **_STREET_NUMBERS_QUICK,
      "batch_norm": False,
      "localisation": "small",
    },
    full={**protocols.HOUSE_NUMBERS, "localisation": "small"},
    stand_in=_STREET_NUMBERS,
  ),
)
