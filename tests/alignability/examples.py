"""Images, features and audits that the tests of alignability share.

`audit` has one size of images, of features and of the search by default, so
that most tests share its compiled programs.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import alignability
from stnjax.alignability import Geometry

FILTERS = 4
STEPS = 12  # of the search
VALID5 = Geometry((2.0, 2.0), (1.0, 1.0), (2.0, 2.0))  # of 5 x 5 kernels


def convolve(images, kernel, stride=1, padding="VALID", **options):
  return lax.conv_general_dilated(
    images,
    jnp.asarray(kernel, images.dtype),
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    **options,
  )


def conv(kernel, *args, **options):
  """A convolution as a function of images."""
  return lambda images: convolve(images, kernel, *args, **options)


def relu_of(features):
  return lambda images: jax.nn.relu(features(images))


def layers_of(**layers):
  """Several functions of images as the layers of one."""
  return lambda images: {name: layer(images) for name, layer in layers.items()}


def blobs(size=24, count=4, seed=0):
  """Smooth, varied images on black, which no border cuts."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  images = np.zeros((count, size, size, 1))
  for image in images:
    for _ in range(5):
      angle, length = rng.uniform(0, np.pi), rng.uniform(1.2, 3)
      middle = rng.uniform(-size / 5, size / 5, 2)
      u = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle)
      v = (y - middle[1]) * np.cos(angle) - (x - middle[0]) * np.sin(angle)
      image[..., 0] += np.exp(-((u / length) ** 2) / 2 - v**2 / 2)
  return jnp.asarray(images, jnp.float32)


def smooth():
  """Blobs of which interpolation leaves little."""
  blur = gaussian(9, 1.5)
  return convolve(blobs(), blur / blur.sum(), padding="SAME")


def kernels(size=5, filters=FILTERS, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(size, size, 1, filters)) / size


def gaussian(size, width):
  x = np.arange(size) - (size - 1) / 2
  squares = x[:, None] ** 2 + x**2
  return np.exp(-squares / 2 / width**2)[..., None, None]


def family(name, *magnitudes):
  """A registered family with other magnitudes."""
  return {name: alignability.FAMILIES[name]._replace(magnitudes=magnitudes)}


def matrix(name, magnitude):
  return alignability.FAMILIES[name].matrix(jnp.asarray(magnitude, float))


def audit(features, images=None, families=None, **options):
  images = blobs() if images is None else images
  options = {"steps": STEPS, "margin": 14, **options}
  return alignability.audit(features, images, families=families, **options)


def means(found, family, layer="features"):
  """The mean over images of each residual, `[M]`, and the image's own."""
  residuals = found.residuals[layer][family]
  floor = found.residuals["input"][family].aligned.mean(axis=1)
  return [np.mean(value, axis=-1) for value in residuals[:4]], floor
