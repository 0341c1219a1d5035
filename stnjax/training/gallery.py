"""A few images, warped by a network at some epochs of its training.

A run folder keeps them in gallery.npz. Runs of older versions have none.
"""

from collections.abc import Mapping

from etils import epath
import numpy as np

from stnjax import files
from stnjax.files import Damaged

NAME = "gallery.npz"
_MOST_EPOCHS = 6


def epochs_shown(epochs: int) -> tuple[int, ...]:
  """Epochs after which images are kept: at most six, more of the early ones.

  Args:
    epochs: Number of epochs of the run.

  Returns:
    Increasing numbers, from 1 to `epochs`; a transformer changes most at first.
  """
  spaced = np.geomspace(1, epochs, _MOST_EPOCHS).round().astype(int)
  return tuple(np.unique(spaced).tolist())


def read(folder: epath.Path) -> dict[int, np.ndarray]:
  """Reads the warped images of a run.

  Args:
    folder: Folder of the run.

  Returns:
    Images `[N, H, W, C]`, uint8, by epoch, in order; empty if there are none.

  Raises:
    Damaged: If the file cannot be read.
  """
  path = folder / NAME
  if not path.exists():
    return {}
  arrays = files.read_arrays(path)
  none = np.zeros(0)
  epochs, images = arrays.get("epoch", none), arrays.get("images", none)
  fine = epochs.dtype.kind == "i" and epochs.shape == images.shape[:1]
  fine = fine and images.dtype == np.uint8 and images.ndim == 5
  if not fine or (np.diff(epochs, prepend=0) < 1).any():
    raise Damaged(f"{path} is damaged: it holds no images by epoch")
  return dict(zip(epochs.tolist(), images, strict=True))


def write(folder: epath.Path, images: Mapping[int, np.ndarray]) -> None:
  """Writes the warped images of a run, in place of those before.

  Args:
    folder: Folder of the run.
    images: Images `[N, H, W, C]`, uint8, by epoch, in order; no file if empty.

  Raises:
    RunError: If the file cannot be written.
  """
  if not images:
    with files.writing(folder / NAME):
      (folder / NAME).unlink(missing_ok=True)
    return
  arrays = {
    "epoch": np.array([*images], np.int32),
    "images": np.stack([*images.values()]),
  }
  files.write_arrays(folder / NAME, arrays)
