"""A balanced subset of MNIST, small enough to be embedded in the package."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from stnjax.data import images, mnist

PER_CLASS = {"train": 1000, "test": 200}


class MnistSubset(tfds.core.GeneratorBasedBuilder):
  """The first images of each class of MNIST's own splits."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "1000 + 200 images per class."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "manual_dir is a TFDS directory in which the full mnist is prepared."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "The first 1000 training and 200 test images of each digit of MNIST,"
        " in the order of TFDS. MNIST: Y. LeCun, C. Cortes, C. J. C. Burges;"
        " CC BY-SA 3.0, which holds for this subset too."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(28, 28, 1)),
          "label": tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://yann.lecun.com/exdb/mnist/",
      license="CC BY-SA 3.0",
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    return {
      split: self._generate_examples(dl_manager.manual_dir, split)
      for split in PER_CLASS
    }

  def _generate_examples(self, source, split: str) -> Iterator:
    data = mnist.MNIST.read(split, source)
    members = [
      np.flatnonzero(data.labels == label)[: PER_CLASS[split]]
      for label in range(10)
    ]
    for index in np.sort(np.concatenate(members)):
      image, label = data.images[index], int(data.labels[index])
      yield int(index), {"image": images.png(image), "label": label}
