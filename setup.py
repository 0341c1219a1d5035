"""Packaging of stnjax."""

import pathlib
import re

from setuptools import find_packages, setup

root = pathlib.Path(__file__).parent
version = re.search(
  r'^__version__ = "(.+)"$', (root / "stnjax/__init__.py").read_text(), re.M
)[1]

setup(
  name="stnjax",
  version=version,
  description="Spatial transformers in JAX: differentiable image warps, and"
  " where to put them in a network",
  long_description=(root / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["stnjax", "stnjax.*"]),
  package_data={"stnjax": ["py.typed", "datasets/embedded/**/*"]},
  install_requires=[
    "jax>=0.10",
    "flax>=0.12.8",
    "optax>=0.2.5",
    "chex>=0.1.90",
    "absl-py>=2.0",
    "tensorflow-datasets>=4.9.9",
    "array_record>=0.8",
    "importlib_resources",  # TFDS needs it and does not declare it
    "pillow>=10",
    "orbax-checkpoint>=0.11.20",
    "numpy>=2.0",
    "matplotlib>=3.8",
    "scipy>=1.13",
  ],
  extras_require={
    "tpu": ["jax[tpu]>=0.10"],
    "gpu": ["jax[cuda13]>=0.10"],
    "gcs": ["gcsfs"],
    "prepare": ["tensorflow"],
    "svhn": ["h5py>=3.10"],
    "notebook": ["jupyterlab>=4"],
    "bench": ["torch==2.13.0", "kornia>=0.8", "dm_pix>=0.4"],
    "tpu-aot": ["libtpu==0.0.42.*; platform_machine == 'x86_64'"],
    "test": [
      "h5py>=3.10",
      "hypothesis>=6",
      "ipykernel>=6",
      "nbclient>=0.10",
      "onnx>=1.18",
      "opencv-python-headless>=4.9",
      "pytest>=8",
      "pytest-xdist>=3",
      "ruff==0.17.*",
      "scikit-image>=0.24",
      "torch==2.13.0",
    ],
  },
)
