"""Decoding examples, and refusing those that a set must not have."""

from collections.abc import Callable
import io

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from stnjax.data import Description
from stnjax.data.builders import plankton
from stnjax.data.prepared import builders, records

_CHANNELS = {"L": 1, "RGB": 3}  # by Pillow's modes of 8 bits a channel

# What makes images of different sizes one size.
_FITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "plankton": plankton.fit
}


def check_features(features: object, name: str, known: Description) -> None:
  """Raises unless the features of a set are those of its description.

  Args:
    features: As restored from features.json.
    name: One of `stnjax.data.SETS`.
    known: Its description.

  Raises:
    ValueError: For other images or labels.
  """
  if not isinstance(features, tfds.features.FeaturesDict):
    raise ValueError("accepted: a dictionary with an image and a label")
  for key in ("image", "label"):
    if key not in features:
      raise ValueError(f"no {key!r} among the features {', '.join(features)}")
  image, label = features["image"], features["label"]
  shape = known.image_shape
  if name in _FITS:
    shape = (None, None, shape[-1])
  if (
    not isinstance(image, tfds.features.Image)
    or image.np_dtype != np.uint8
    or not _agree(image.shape, shape)
  ):
    raise ValueError(f"image is {image}; accepted: {shape}, a uint8 Image")
  heads = (known.heads,) if known.heads > 1 else ()
  whole = isinstance(label.np_dtype, type | np.dtype) and np.issubdtype(
    label.np_dtype, np.integer
  )
  if not whole or not _agree(label.shape, heads):
    raise ValueError(f"label is {label}; accepted: integers of shape {heads}")


def _agree(declared: tuple, wanted: tuple) -> bool:
  """Whether shapes are the same, but for axes of any size."""
  return len(declared) == len(wanted) and all(
    None in (a, b) or a == b for a, b in zip(declared, wanted, strict=True)
  )


def decode(
  record: bytes, name: str, known: Description
) -> tuple[np.ndarray, list[int]]:
  """Decodes one example.

  TFDS's own decoder casts whatever it finds to the declared types.

  Args:
    record: Serialised `tf.train.Example`.
    name: One of `stnjax.data.SETS`.
    known: Its description.

  Returns:
    The image, of the shape of the description, uint8, and the label of each
    head.

  Raises:
    ValueError: For another image or label.
  """
  try:
    features = tf_example_pb2.Example.FromString(record).features.feature
  except Exception as error:  # protobuf's, which is no dependency of ours
    raise ValueError(f"not an example ({records.reason(error)})") from error
  images = features["image"].bytes_list.value
  labels = list(features["label"].int64_list.value)
  if len(images) != 1:
    raise ValueError("no encoded image; accepted: one PNG or JPEG")
  if len(labels) != known.heads:
    raise ValueError(
      f"{len(labels)} whole numbers as label; accepted: {known.heads}"
    )
  if min(labels) < 0 or max(labels) >= known.num_classes:
    raise ValueError(
      f"a label of {labels}; accepted: classes 0 to {known.num_classes - 1}"
    )
  if fit := _FITS.get(name):
    return fit(_image(images[0], (None, None, known.image_shape[-1]))), labels
  return _image(images[0], known.image_shape), labels


def _image(content: bytes, shape: tuple) -> np.ndarray:
  """The pixels of a PNG or JPEG of that shape, in which None is any size."""
  kind = "JPEG" if content.startswith(b"\xff\xd8") else "PNG"
  try:
    with builders.open_image(io.BytesIO(content), kind) as image:
      channels = _CHANNELS.get(image.mode)
      if channels is None:
        raise builders.ImageError(
          f"of Pillow's mode {image.mode}, not L or RGB"
        )
      found = (image.height, image.width, channels)
      if not _agree(found, shape):
        raise builders.ImageError(f"of shape {found}; accepted: {shape}")
      return np.asarray(image).reshape(found)
  except builders.ImageError as error:
    raise ValueError(f"an image {error}") from error
