"""Pose estimators at equal numbers of parameters.

They are not the paper's experiments: its placements are compared with an
equivariant localiser (STN-EQ), a canonicalisation (STN-CAN) and, for
rotations, a network that is invariant without a transformer (GCNN).
"""

from typing import Any

from stnjax.paper import protocols
from stnjax.paper.presets.preset import QUICK, Preset, register

_DIGITS = "10,000 embedded digits of MNIST's 60,000"
_NETWORKS = (
  *("CNN", "STN-C0", "STN-C0x2", "STN-DL1", "STN-SL1", "STN-C1"),
  *("STN-EQ0", "STN-CAN0"),
)
_FOR_ROTATIONS = (*_NETWORKS, "GCNN")

# About those of STN-C0 at a width of 0.25, and of 1.
_QUICK: dict[str, Any] = {
  "parameters": 28_000,
  "localisation_width": 0.5,
  "batch_size": 32,
  "epochs": 8,
}
_FULL: dict[str, Any] = {
  **{k: v for k, v in protocols.MNIST.items() if k != "width"},
  "parameters": 236_000,
}
_FULL_CIRCLE = {"perturbation": "full_rotation", "family": "rotation"}
_ROTATION = {"perturbation": "rotation", "family": "rotation"}
_SCALE = {"perturbation": "scale", "family": "scale"}
_SIMILARITY = {"perturbation": "similarity", "family": "similarity"}
# In clutter, on images of half the size.
_CLUTTERED = {**QUICK, "downsample": 2, **_QUICK}

register(
  Preset(
    name="pose_full_circle",
    title="MNIST rotated over the full circle.",
    purpose="Tests claims 11 and 12, and 13 with `pose_full_circle_1000`.",
    networks=_FOR_ROTATIONS,
    quick={**_QUICK, **_FULL_CIRCLE},
    full={**_FULL, **_FULL_CIRCLE},
    stand_in=_DIGITS,
  ),
  Preset(
    name="pose_full_circle_1000",
    title="1,000 images of MNIST rotated over the full circle.",
    purpose=(
      "Tests claims 11 and 13. The quick size takes as many steps as that of"
      " `pose_full_circle`."
    ),
    networks=_FOR_ROTATIONS,
    quick={**_QUICK, **_FULL_CIRCLE, "train_images": 1000, "epochs": 80},
    full={**_FULL, **_FULL_CIRCLE, "train_images": 1000, "epochs": 6400},
    stand_in=_DIGITS,
  ),
  Preset(
    name="pose_rotation",
    title="MNIST rotated by up to 90 degrees.",
    purpose="Tests claim 11 where a part of the group occurs.",
    networks=_FOR_ROTATIONS,
    quick={**_QUICK, **_ROTATION},
    full={**_FULL, **_ROTATION},
    stand_in=_DIGITS,
  ),
  Preset(
    name="pose_scale",
    title="MNIST scaled by 1/2 to 4 in a cluttered image.",
    purpose="Compares pose estimators for scalings.",
    networks=_NETWORKS,
    quick={
      **_CLUTTERED,
      **_SCALE,
      "learning_rate": 0.003,
      "eval_passes": 5,
    },
    full={**_FULL, **_SCALE},
    stand_in=_DIGITS,
  ),
  Preset(
    name="pose_similarity",
    title="MNIST rotated, scaled and translated in a cluttered image.",
    purpose="Tests claims 11 and 12 for similarities over the full circle.",
    networks=_NETWORKS,
    quick={**_CLUTTERED, **_SIMILARITY, "epochs": 24, "eval_passes": 5},
    full={**_FULL, **_SIMILARITY},
    stand_in=_DIGITS,
  ),
)
