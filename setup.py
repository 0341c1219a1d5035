"""Builds the compiled sampler; pyproject.toml describes the rest."""

import importlib.util
import pathlib

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildLibrary(build_ext):
  """Builds a shared library for JAX to load; no Python module."""

  def run(self) -> None:
    """Forgets a library that could not be built."""
    super().run()
    built = [
      extension
      for extension in self.extensions
      if pathlib.Path(self.get_ext_fullpath(extension.name)).exists()
    ]
    self.extensions = self.distribution.ext_modules = built

  def get_ext_filename(self, fullname: str) -> str:
    """Names the file without the version of Python."""
    return str(pathlib.Path(*fullname.split("."))) + ".ffi"

  def get_libraries(self, ext: Extension) -> list[str]:
    """Links without libpython, so that any version of Python can load it."""
    return ext.libraries


class BuildWheel(bdist_wheel):
  """One wheel for every Python 3 of a platform."""

  def run(self) -> None:
    """Compiles first: without the library the wheel runs on any platform."""
    self.run_command("build")
    self.root_is_pure = not self.distribution.has_ext_modules()
    super().run()

  def get_tag(self) -> tuple[str, str, str]:
    """The platform alone decides where the library can be loaded."""
    return "py3", "none", super().get_tag()[2]


def libraries() -> list[Extension]:
  """The compiled sampler, if the headers of XLA are installed."""
  jaxlib = importlib.util.find_spec("jaxlib")
  if jaxlib is None:
    return []
  return [
    Extension(
      "stnjax.sampling.kernels.libsampler",
      ["stnjax/sampling/kernels/sampler.cc"],
      depends=[
        f"stnjax/sampling/kernels/{name}.h"
        for name in (
          "bands",
          "coordinates",
          "filters",
          "gradients",
          "lanes",
          "parallel",
          "places",
          "read",
          "sampler",
          "taps",
        )
      ],
      include_dirs=[str(pathlib.Path(jaxlib.origin).parent / "include")],
      extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-g0",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fopenmp-simd",
      ],
      optional=True,  # without a compiler, only a warning
    )
  ]


setup(
  ext_modules=libraries(),
  cmdclass={"build_ext": BuildLibrary, "bdist_wheel": BuildWheel},
)
