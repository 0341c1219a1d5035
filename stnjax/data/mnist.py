"""MNIST as TFDS has it, and the subset that this package embeds."""

from stnjax.data.prepared import Prepared

LICENCE = "CC BY-SA 3.0 (Y. LeCun, C. Cortes, C. J. C. Burges)"

MNIST = Prepared(name="mnist", image_shape=(28, 28, 1), num_classes=10)


def _builder() -> type:
  from stnjax.data.tfds_builders import mnist_subset

  return mnist_subset.MnistSubset


SUBSET = Prepared(
  name="mnist_subset",
  image_shape=(28, 28, 1),
  num_classes=10,
  builder=_builder,
  manual_dir="TFDS directory that has the full mnist",
  embedded=True,
)
"""1000 + 200 images of each digit."""
