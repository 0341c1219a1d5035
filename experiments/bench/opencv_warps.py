"""Warps of OpenCV, forward, on CPU."""

from collections.abc import Callable
import functools
from typing import Any

import cv2
import numpy as np

from stnjax import transforms

_FLAGS = {
  "nearest": cv2.INTER_NEAREST,
  "linear": cv2.INTER_LINEAR,
  "cubic": cv2.INTER_CUBIC,
}


def passes(
  inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
  method: str,
  dtype: str,
  padding: str = "zeros",
  in_a_row: int = 1,
) -> dict[str, Callable[[], Any]]:
  """The pass forward of `cv2.warpAffine`, an image after the other.

  Args:
    inputs: Image, theta and the cotangent of the result, channels last.
    method: Method of interpolation.
    dtype: Data type of the images, as NumPy calls it; they are given in it.
    padding: What is outside: "zeros".
    in_a_row: Number of times that a call computes the warp.
  """
  assert padding == "zeros"
  images, theta, _ = inputs
  images = images.astype(dtype)
  height, width = images.shape[1:3]
  matrices = np.asarray(transforms.to_pixels(theta, (height, width)))
  warp = functools.partial(
    cv2.warpAffine,
    dsize=(width, height),
    flags=_FLAGS[method] | cv2.WARP_INVERSE_MAP,
  )

  def forward():
    for _ in range(in_a_row):
      result = [
        warp(image, matrix)
        for image, matrix in zip(images, matrices, strict=True)
      ]
    return np.stack(result).reshape(images.shape)

  return {"forward": forward}
