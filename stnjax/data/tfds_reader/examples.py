"""Decoding examples, and refusing those that a set must not have."""

from collections.abc import Sequence
import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from stnjax.data import images
from stnjax.data.prepared import Prepared
from stnjax.data.tfds_reader import records

_CHANNELS = {"L": 1, "RGB": 3}  # by Pillow's modes of 8 bits a channel


def check_features(features: object, expected: Prepared) -> None:
  """Raises unless the features of a set are those that are expected.

  Args:
    features: As restored from features.json.
    expected: Description of the set.

  Raises:
    ValueError: For other images or labels.
  """
  if not isinstance(features, tfds.features.FeaturesDict):
    raise ValueError("accepted: a dictionary with an image and a label")
  for key in (expected.image_key, expected.label_key):
    if key not in features:
      raise ValueError(f"no {key!r} among the features {', '.join(features)}")
  image, label = features[expected.image_key], features[expected.label_key]
  height, width, channels = expected.image_shape
  shape = (
    *((None, None) if expected.resize else (height, width)),
    None if expected.convert else channels,
  )
  if (
    not isinstance(image, tfds.features.Image)
    or image.np_dtype != np.uint8
    or not _agree(image.shape, shape)
  ):
    raise ValueError(
      f"{expected.image_key} is {image}; accepted: {shape}, a uint8 Image"
    )
  heads = (expected.heads,) if expected.heads > 1 else ()
  if not is_whole(label) or not _agree(label.shape, heads):
    raise ValueError(
      f"{expected.label_key} is {label}; accepted: integers of shape {heads}"
    )


def is_whole(label: tfds.features.FeatureConnector) -> bool:
  """Whether a feature is of integers."""
  return isinstance(label.np_dtype, type | np.dtype) and np.issubdtype(
    label.np_dtype, np.integer
  )


def _agree(declared: Sequence[Any], wanted: Sequence[Any]) -> bool:
  """Whether shapes are the same, but for axes of any size."""
  return len(declared) == len(wanted) and all(
    None in (a, b) or a == b for a, b in zip(declared, wanted, strict=True)
  )


def decode(record: bytes, expected: Prepared) -> tuple[np.ndarray, list[int]]:
  """Decodes one example.

  TFDS's own decoder casts any type to the declared ones.

  Args:
    record: Serialised `tf.train.Example`.
    expected: Description of the set.

  Returns:
    The image, of the shape of the description, uint8, and the label of each
    head.

  Raises:
    ValueError: For another image or label.
  """
  features = _features(record)
  encoded = features[expected.image_key].bytes_list.value
  if len(encoded) != 1:
    raise ValueError("no encoded image; accepted: one PNG or JPEG")
  labels = list(features[expected.label_key].int64_list.value)
  if len(labels) != expected.heads:
    raise ValueError(
      f"{len(labels)} whole numbers as label; accepted: {expected.heads}"
    )
  if min(labels) < 0 or max(labels) >= expected.num_classes:
    raise ValueError(
      f"a label of {labels}; accepted: classes 0 to {expected.num_classes - 1}"
    )
  return _image(encoded[0], expected), labels


def label_of(record: bytes, key: str) -> int:
  """The label of one example, without decoding its image.

  Args:
    record: Serialised `tf.train.Example`.
    key: Name of the feature of the label.

  Raises:
    ValueError: If it has not one whole number as label.
  """
  labels = _features(record)[key].int64_list.value
  if len(labels) != 1:
    raise ValueError(f"{len(labels)} whole numbers as label; accepted: 1")
  return int(labels[0])


def _features(record: bytes) -> Any:
  try:
    return tf_example_pb2.Example.FromString(record).features.feature
  except Exception as error:  # protobuf's, which is not a dependency
    raise ValueError(f"not an example ({records.reason(error)})") from error


def _image(content: bytes, expected: Prepared) -> np.ndarray:
  """The pixels of a PNG or JPEG, of the shape of the description."""
  shape = expected.image_shape
  if expected.resize:
    shape = (None, None, shape[-1])
  try:
    kind = images.kind_of(content)
    with images.open_image(
      io.BytesIO(content), kind, sixteen_bits=expected.convert
    ) as image:
      if expected.convert:
        pixels = images.pixels(image, shape[-1], upright=False)
      elif image.mode in _CHANNELS:
        channels = _CHANNELS[image.mode]
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
      else:
        raise images.ImageError(f"of Pillow's mode {image.mode}, not L or RGB")
      if not _agree(pixels.shape, shape):
        raise images.ImageError(f"of shape {pixels.shape}; accepted: {shape}")
  except images.ImageError as error:
    raise ValueError(f"an image {error}") from error
  return expected.resize(pixels) if expected.resize else pixels
