"""Networks by name: a backbone and a placement, and their parts."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax import promotion, transforms
from stnjax.placement import backbone as backbones
from stnjax.placement import names
from stnjax.placement.backbone import Backbone, Task
from stnjax.placement.base import Placement
from stnjax.placement.network import Network
from stnjax.placement.probing import Geometries


@promotion.usual
def place(
  backbone: Backbone,
  placement: str | Placement,
  task: Task,
  *,
  family: str | transforms.Family = "affine",
  localisation: str | None = None,
  padding: str | None = None,
  batch_norm: bool = False,
  norm_average: float | None = None,
  theta_gradient: float = 1.0,
  geometry: Geometries | None = None,
  rngs: nnx.Rngs,
) -> Network:
  """Puts a spatial transformer into a backbone.

  Args:
    backbone: Stages and head; the network shares their parameters.
    placement: Name such as "CNN", "STN-C1", "STN-SL0,1" or "DEF1", or a
      `Placement`.
    task: What to classify.
    family: Transform family to predict, a name in
      `stnjax.transforms.FAMILIES` or a `Family`. Families of grids run once.
    localisation: Size of the localisation net, of those that the backbone has;
      the backbone's default if None.
    padding: Padding of the transformer, one of `stnjax.sampling.UNFILLED`; that
      of the backbone by default. Deformed convolutions read 0 outside.
    batch_norm: Whether a batch norm without parameters follows each run of the
      transformer, or precedes a deformed convolution.
    norm_average: Share of its running averages that every batch norm of the
      network keeps in a step of training; None leaves each as it was made,
      0.99 by default.
    theta_gradient: Factor on the gradient at theta, and so on that of all
      layers that theta depends on, shared ones included.
    geometry: Geometry of the features at each depth, from `probe_backbone`.
      By default that of the backbone, probed where needed.
    rngs: Keys for the initial values.

  Raises:
    ValueError: For a depth that the backbone does not have, images that are
      too small for it, an unknown option, a stage that the placement cannot
      use, or a backbone without the orientations that it needs.
  """
  if isinstance(placement, str):
    placement = names.parse(placement)
  return Network(
    backbone,
    placement,
    task,
    family=family,
    localisation=localisation,
    padding=padding,
    batch_norm=batch_norm,
    norm_average=norm_average,
    theta_gradient=theta_gradient,
    geometry=geometry,
    rngs=rngs,
  )


@promotion.usual
def create(
  backbone: str | Callable[..., Backbone],
  network: str | Placement,
  task: Task,
  *,
  width: float = 1.0,
  localisation_width: float = 1.0,
  dropout: bool = True,
  localisation: str | None = None,
  init: str | None = None,
  family: str | transforms.Family = "affine",
  padding: str | None = None,
  batch_norm: bool = False,
  norm_average: float | None = None,
  theta_gradient: float = 1.0,
  geometry: Geometries | None = None,
  rngs: nnx.Rngs,
  **options: Any,
) -> Network:
  """Makes a backbone by name, and puts a spatial transformer into it.

  Args:
    backbone: Name in `BACKBONES`, or a function such as those.
    network: Name such as "CNN", "STN-C1" or "STN-SL1x2", or a `Placement`.
    task: What to classify.
    width: Factor on the numbers of filters and hidden units of the classifier.
    localisation_width: Factor on those of the localisation nets.
    dropout: Whether the backbone keeps its dropout.
    localisation: See `place`.
    init: Initialiser of all layers but the last one of localisation nets, one
      of `stnjax.nn.initialisers.INITIALISERS`; the backbone's own if None.
    family: See `place`.
    padding: See `place`.
    batch_norm: See `place`.
    norm_average: See `place`.
    theta_gradient: See `place`.
    geometry: See `place`.
    rngs: Keys for the initial values, `nnx.Rngs(seed)`.
    **options: More options of the backbone. `orientations` is by default what
      the placement needs.

  Raises:
    ValueError: For an unknown name or option, or a backbone without the
      orientations that the placement needs, see also `place`.

  >>> import jax.numpy as jnp
  >>> network = create("plain", "STN-SL1", Task((28, 28, 1), 10), width=0.25,
  ...                  rngs=nnx.Rngs(0))
  >>> network(jnp.zeros((2, 28, 28, 1))).logits.shape
  (2, 10)
  """
  placement = names.parse(network) if isinstance(network, str) else network
  options.setdefault("orientations", placement.orientations)
  made = backbones.make_backbone(
    backbone,
    task,
    width=width,
    localisation_width=localisation_width,
    dropout=dropout,
    localisation=localisation,
    init=init,
    rngs=rngs,
    **options,
  )
  return place(
    made,
    placement,
    task,
    family=family,
    localisation=localisation,
    padding=padding,
    batch_norm=batch_norm,
    norm_average=norm_average,
    theta_gradient=theta_gradient,
    geometry=geometry,
    rngs=rngs,
  )


def count_parameters(network: Network) -> dict[str, int]:
  """Counts the learnable parameters of a network.

  Returns:
    "classifier" (stages and head), "localisation" (localisation nets and
    copied stages) and "total".
  """
  counts = {"classifier": 0, "localisation": 0}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    own = network.placement.part(path) == "localisation"
    counts["localisation" if own else "classifier"] += leaf.get_value().size
  return {**counts, "total": sum(counts.values())}


def count_operations(network: Network) -> int | None:
  """Floating-point operations of a forward pass per image, as XLA counts them.

  Before optimisation, of usual convolutions: forms of them that are faster
  somewhere, with more operations, do not count.

  Args:
    network: Network, of arrays or of shapes alone (`nnx.eval_shape`).

  Returns:
    Their number; None where JAX has no CPU (`JAX_PLATFORMS=cuda`) and XLA
    counts none, as for GPUs.
  """
  graphdef, state = nnx.split(network)
  state = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
  )
  images = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)

  def logits(state: nnx.State[Any, Any], images: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(images).logits

  try:
    device = jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    device = None
  with jax.default_device(device):
    # For a platform without forms of its own of warps and convolutions.
    traced = jax.jit(logits).trace(state, images)
    cost = traced.lower(lowering_platforms=("rocm",)).cost_analysis()
  return None if cost is None else int(round(cost["flops"]))


def part(path: Sequence[Any], placement: Placement) -> str:
  """The part of a network that a parameter belongs to, see `Placement.part`."""
  return placement.part(path)
