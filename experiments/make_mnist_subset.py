"""Makes the embedded mnist_subset from a prepared full MNIST.

  python -m experiments.make_mnist_subset --data_dir=/path/to/tfds

writes stnjax/datasets/embedded/mnist_subset/1.0.0 (about 5 MB), which is
committed; nobody needs to run this again unless the subset changes.
"""

from absl import app, flags
import tensorflow_datasets as tfds

from stnjax.datasets import loading, mnist_subset

_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "TFDS directory in which the full mnist is prepared.",
  required=True,
)
_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir",
  str(loading.EMBEDDED),
  "TFDS directory to write to; a version that is there already is kept.",
)


def main(argv: list[str]) -> None:
  del argv
  builder = mnist_subset.MnistSubset(
    data_dir=_OUTPUT_DIR.value, file_format="array_record"
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=_DATA_DIR.value)
  )
  print(f"prepared in {builder.data_dir}")


if __name__ == "__main__":
  app.run(main)
