"""Perturbed MNIST."""

from stnjax.paper import protocols
from stnjax.paper.presets.preset import QUICK, Preset, register

_DIGITS = "10,000 embedded digits of MNIST's 60,000"

register(
  Preset(
    name="rotation",
    title="MNIST rotated by up to 90 degrees.",
    purpose=(
      "Tests claims 1, 2, 4, 5, 6, 8 and 9. The quick size predicts rotations"
      " only."
    ),
    minutes=6,
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
    name="rotation_plain_sgd",
    title="MNIST rotated, from torch's initial values by SGD without momentum.",
    purpose=(
      "Tests claims 5 and 6 as the authors' networks start and are trained,"
      " which may be what makes own copies hard to train. The learning rate of"
      " the quick size was chosen of 0.03, 0.1 and 0.3 on held-out images, by"
      " STN-C0 and STN-SL1."
    ),
    networks=("CNN", "STN-C0", "STN-DL1", "STN-DL2", "STN-SL1", "STN-SL2"),
    quick={
      "family": "rotation",
      "epochs": 12,
      "init": "torch",
      "optimiser": "sgd",
      "momentum": 0.0,
      "learning_rate": 0.1,
    },
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
      **QUICK,
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
    networks=("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1"),
    quick={
      **QUICK,
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
)
