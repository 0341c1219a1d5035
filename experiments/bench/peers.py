"""Implementations of a warp to compare, found by name."""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import numpy as np

from experiments.bench import jax_warps
from stnjax.registry import Registry
from stnjax.sampling.kernels import library

METHODS = ("nearest", "linear", "cubic", "spline")
PASSES = ("forward", "theta", "both")
DTYPES = ("float32", "float64", "bfloat16", "uint8")
PADDINGS = ("zeros", "border", "reflection", "wrap")
FLOATING = ("float32", "bfloat16")

_TORCH = ("torch", "kornia")

ONE_ORDER = {"xla_gpu_deterministic_ops": True}
"""`compiler_options` of `jax.jit` for sums in one order on GPU."""

Passes = dict[str, Callable[[], Any]]
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implementation:
  """A warp to compare.

  Attributes:
    methods: Methods of interpolation that it supports.
    passes: Function of the inputs, the method, the data type of the images, the
      padding and the number of times that a call computes the warp; it returns,
      by pass, a call that returns when its result is there.
    package: Package that it needs.
    backends: Backends of JAX that it is of use on; any if empty.
    is_warp: Whether its result is the warped batch.
    volume_methods: Methods of interpolation that it supports for volumes.
    dtypes: Data types of images that it supports.
    paddings: What it knows to be outside.
    max_channels: Most channels of an image, None if it takes any number.
  """

  methods: Sequence[str]
  passes: Callable[[Inputs, str, str, str, int], Passes]
  package: str = "jax"
  backends: Sequence[str] = ()
  is_warp: bool = True
  volume_methods: Sequence[str] = ()
  dtypes: Sequence[str] = FLOATING
  paddings: Sequence[str] = ("zeros",)
  max_channels: int | None = None

  def supports(
    self, shape: Sequence[int], method: str, dtype: str, padding: str
  ) -> bool:
    """Whether it warps a batch of a shape and data type so."""
    methods = self.methods if len(shape) == 4 else self.volume_methods
    most = self.max_channels or shape[-1]
    return (
      method in methods
      and dtype in self.dtypes
      and padding in self.paddings
      and shape[-1] <= most
    )

  def available(self) -> bool:
    """Whether it can be timed on JAX's default backend."""
    backend = jax.default_backend()
    if self.backends and backend not in self.backends:
      return False
    if importlib.util.find_spec(self.package) is None:
      return False
    if self.package not in _TORCH or backend == "cpu":
      return True
    import torch

    return torch.cuda.is_available()


def _in_jax(warp: jax_warps.Warp, names=PASSES, options=None) -> Callable:
  def passes(*case):
    return jax_warps.passes(warp, names, *case, options)

  return passes


def _in_torch(peer: str, *case: Any) -> Passes:
  from experiments.bench import torch_warps  # torch is optional

  return torch_warps.passes(peer, *case)


def _in_opencv(*case: Any) -> Passes:
  from experiments.bench import opencv_warps  # OpenCV is optional

  return opencv_warps.passes(*case)


STNJAX = Implementation(
  methods=METHODS,
  volume_methods=METHODS,
  dtypes=DTYPES,
  paddings=PADDINGS,
  passes=_in_jax(jax_warps.stnjax_warp),
)

_ANTIALIASED = Implementation(
  methods=("linear", "cubic", "spline"),
  paddings=PADDINGS,
  passes=_in_jax(jax_warps.antialiased_warp),
)

PEERS: Registry[Implementation] = Registry("--peers")
"""Other libraries; stnjax with deterministic sums on GPU; and a copy."""

for _name in ("torch", "kornia"):
  PEERS.register(
    _name,
    Implementation(
      methods=("nearest", "linear", "cubic"),
      volume_methods=("nearest", "linear") if _name == "torch" else (),
      passes=functools.partial(_in_torch, _name),
      package=_name,
      dtypes=(*FLOATING, "float64") if _name == "torch" else FLOATING,
      paddings=PADDINGS[:3] if _name == "torch" else ("zeros",),
    ),
  )
PEERS.register(
  "map_coordinates",
  Implementation(
    methods=tuple(jax_warps.ORDERS), passes=_in_jax(jax_warps.map_coordinates)
  ),
)
PEERS.register(
  "dm_pix",
  Implementation(
    methods=tuple(jax_warps.ORDERS),
    passes=_in_jax(jax_warps.dm_pix_warp),
    package="dm_pix",
  ),
)
PEERS.register(
  "opencv",
  Implementation(
    methods=("nearest", "linear", "cubic"),
    passes=_in_opencv,
    package="cv2",
    backends=("cpu",),
    dtypes=("float32", "uint8"),
    max_channels=4,
  ),
)
PEERS.register(
  "deterministic",
  Implementation(
    methods=METHODS,
    volume_methods=METHODS,
    paddings=PADDINGS,
    passes=_in_jax(jax_warps.stnjax_warp, options=ONE_ORDER),
    backends=("gpu",),  # sums elsewhere are in one order anyway
  ),
)
PEERS.register(
  "copy",
  Implementation(
    methods=METHODS,
    volume_methods=METHODS,
    passes=_in_jax(jax_warps.copy, names=("forward",)),
    is_warp=False,
    dtypes=DTYPES,
    paddings=PADDINGS,
  ),
)

PACKAGES = tuple(
  dict.fromkeys(["jaxlib", *(peer.package for peer in PEERS.values())])
)
"""Packages whose versions the times depend on."""


def find(name: str) -> Implementation:
  """The implementation called "stnjax", "antialiased", or one of `PEERS`."""
  own = {"stnjax": STNJAX, "antialiased": _ANTIALIASED}
  return own[name] if name in own else PEERS[name]


def inputs(shape: Sequence[int]) -> Inputs:
  """A batch, a theta within 0.2 of the identity, and a cotangent."""
  rng = np.random.default_rng(0)
  image, cotangent = rng.uniform(size=(2, *shape)).astype(np.float32)
  num_axes = len(shape) - 2
  size = num_axes, num_axes + 1
  theta = np.eye(*size) + rng.uniform(-0.2, 0.2, (shape[0], *size))
  return image, theta.astype(np.float32), cotangent


def build(
  name: str,
  shape: Sequence[int],
  method: str,
  dtype: str = "float32",
  padding: str = "zeros",
  in_a_row: int = 1,
) -> Passes:
  """The passes of an implementation, compiled by a first call.

  Args:
    name: As `find` takes it.
    shape: Batch, height, width and channels.
    method: One of `METHODS`.
    dtype: Data type of the images, one of `DTYPES`.
    padding: What is outside, one of `PADDINGS`.
    in_a_row: Number of times that a call computes the warp.

  Returns:
    By pass, a call that returns when its result is there. The method "nearest"
    has no gradient to theta, bytes have none.
  """
  image, *rest = inputs(shape)
  if dtype == "uint8":
    image = np.round(255 * image)
  passes = find(name).passes((image, *rest), method, dtype, padding, in_a_row)
  if method == "nearest":
    passes.pop("theta", None)
  if dtype == "uint8":
    passes = {"forward": passes["forward"]}
  if find(name).package in _TORCH:
    for call in passes.values():
      call()
  else:  # XLA compiles programs side by side
    with concurrent.futures.ThreadPoolExecutor() as pool:
      list(pool.map(lambda call: call(), passes.values()))
  return passes


def without_compiler() -> None:
  """Makes stnjax warp as if its C++ sampler had not been compiled."""
  library.is_compiled = lambda: False
