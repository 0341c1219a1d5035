"""The compiled code of sampler.cc, where setup.py could build it."""

from collections.abc import Callable
import ctypes
import pathlib
import re
from typing import Any
import warnings

import jax
from jax.interpreters import mlir

FUNCTIONS = (
  "stnjax_sampler_read",
  "stnjax_sampler_read_affine",
  "stnjax_sampler_grad_coords",
  "stnjax_sampler_grad_image",
  "stnjax_sampler_grad_affine",
  "stnjax_sampler_grad_image_affine",
  "stnjax_sampler_filter",
  "stnjax_sampler_correlate",
  "stnjax_sampler_band",
  "stnjax_sampler_remainder",
)
"""Names of the operations in the library."""


def is_compiled() -> bool:
  """Reports whether programs for CPU use the compiled code of sampler.cc."""
  return _COMPILED


def may_call(context: mlir.LoweringRuleContext) -> bool:
  """Whether a program that is lowered may call the compiled code.

  Exported, it would run nowhere else; if XLA partitions the batch, it cannot
  see into a call, and each device would do the work of all.
  """
  module = context.module_context
  axes = module.axis_context
  if isinstance(axes, mlir.ShardingContext):
    alone = axes.num_devices == 1
  elif isinstance(axes, mlir.SPMDAxisContext):
    alone = axes.manual_axes == frozenset(axes.mesh.axis_names)
  else:
    alone = True
  return alone and not module.lowering_parameters.for_export


def lowering(
  compiled: Callable[..., Any], otherwise: Callable[..., Any]
) -> Any:
  """The rule to lower an operation on CPU to a call of the compiled code.

  Args:
    compiled: The rule that makes the call.
    otherwise: The rule where it may not be called.
  """

  def lower(
    context: mlir.LoweringRuleContext, *operands: Any, **options: Any
  ) -> Any:
    calls = is_compiled() and may_call(context)
    rule = compiled if calls else otherwise
    return rule(context, *operands, **options)

  return lower


def _register(path: pathlib.Path) -> bool:
  """Registers the functions of a library with XLA; returns whether it did.

  At import, since programs from a compilation cache call them, too.
  """
  try:
    loaded = ctypes.CDLL(str(path))
    _check_version(loaded)
    functions = {name: getattr(loaded, name) for name in FUNCTIONS}
    for name, function in functions.items():
      target = jax.ffi.pycapsule(function)
      jax.ffi.register_ffi_target(name, target, platform="cpu")
  except (OSError, AttributeError, RuntimeError, ValueError) as error:
    # Built for another machine, by another version or for another jaxlib.
    if path.exists():
      warnings.warn(
        f"stnjax samples without its compiled code, slower on CPU: {error}."
        " Installed with `pip install --no-build-isolation`, it is built for"
        " the jaxlib that is there.",
        RuntimeWarning,
        stacklevel=2,
      )
    return False
  return True


def _check_version(loaded: ctypes.CDLL) -> None:
  """Raises if a library was built for a newer jaxlib than the installed one.

  XLA would refuse it only when the backend starts, and JAX could not start.
  """
  built = tuple((ctypes.c_int32 * 2).in_dll(loaded, "stnjax_sampler_api"))
  header = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
  defined = re.findall(
    r"define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", header.read_text()
  )
  if built > tuple(map(int, defined)):
    raise RuntimeError(
      f"it was built for version {built[0]}.{built[1]} of XLA's interface, and"
      f" jaxlib has {'.'.join(defined)}"
    )


_COMPILED = _register(pathlib.Path(__file__).with_name("libsampler.ffi"))
