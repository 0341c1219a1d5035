"""Packaging of stnjax."""

import importlib.util
import pathlib
import re

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

root = pathlib.Path(__file__).parent
version = re.search(
  r'^__version__ = "(.+)"$', (root / "stnjax/__init__.py").read_text(), re.M
)[1]


class BuildLibrary(build_ext):
  """Builds what JAX calls in CPU programs; the rest works without it."""

  def get_ext_filename(self, fullname: str) -> str:
    """No module of Python, so no name for one version of it."""
    return str(pathlib.Path(*fullname.split("."))) + ".ffi"


def libraries() -> list[Extension]:
  """The compiled sampler, where the headers of XLA are at hand."""
  jaxlib = importlib.util.find_spec("jaxlib")
  if jaxlib is None:
    return []
  return [
    Extension(
      "stnjax.sampling.kernels.libbilinear",
      ["stnjax/sampling/kernels/bilinear.cc"],
      include_dirs=[str(pathlib.Path(jaxlib.origin).parent / "include")],
      extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fopenmp-simd",
      ],
      optional=True,  # without a compiler, only a warning
    )
  ]


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
  ext_modules=libraries(),
  cmdclass={"build_ext": BuildLibrary},
  package_data={"stnjax": ["py.typed", "data/embedded/**/*"]},
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
      "markdown-it-py>=3",
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
