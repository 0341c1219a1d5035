"""Backbones: the stages and the head of a classifier, without a transformer.

A backbone is a function of a `Task` that returns a `Backbone`, registered by
name:

  @BACKBONES.register("mine")
  def mine(task, *, rngs, width=1.0):
    return Backbone(stages, head)

A stage is any NNX module or function from `[B, H, W, C]` to `[B, h, w, F]`. A
transformer may sit before, between or behind stages. If `__call__` takes an
argument named `context`, it gets the `Context` of the pass.
"""

from collections.abc import Callable, Sequence
import inspect
from typing import Any, NamedTuple

from flax import nnx
import jax

from stnjax import checks, sampling
from stnjax.alignability import Geometry
from stnjax.nn.localisation import LocalisationNet
from stnjax.registry import Registry

Stage = Callable[..., jax.Array]
"""From features `[B, H, W, C]` to features `[B, h, w, F]`."""

SMALL = "small"
"""Size of the localisation net of a backbone that names no other."""


class Task(NamedTuple):
  """A classification task.

  Attributes:
    image_shape: `(H, W, C)` of the images that the network gets.
    num_classes: Number of classes of each head.
    heads: Number of answers for an image, such as the digits of a number.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  heads: int = 1


class Backbone(nnx.Module):
  """The stages of a classifier, its head, and what placements need of it."""

  def __init__(
    self,
    stages: Sequence[Stage],
    head: Callable[..., jax.Array] | None = None,
    *,
    make_head: Callable[..., nnx.Module] | None = None,
    fresh_stages: Callable[[nnx.Rngs], Sequence[Stage]] | None = None,
    localiser: Callable[..., Callable[[jax.Array], jax.Array]] | None = None,
    localisation: str = SMALL,
    padding: str = "border",
    halve_output: bool = False,
    geometry: Callable[[int], Geometry] | None = None,
    orientations: int = 1,
    localisation_width: float = 1.0,
  ):
    """Keeps the parts.

    Args:
      stages: NNX modules or functions, `[B, H, W, C]` to `[B, h, w, F]`.
      head: Module or function from the last features `[B, h, w, F]` to logits
        `[B, heads * num_classes]`.
      make_head: Function `make_head(shape, *, rngs)` of the shape `(h, w, F)`
        of the last features that returns the head, instead of `head`: for
        heads that depend on the size of the features, where a transformer
        halves it.
      fresh_stages: Function of `rngs` that returns the stages with new
        parameters, for networks that localise through a copy (STN-DL).
      localiser: Function `localiser(shape, image_shape, num_params, *, rngs)`
        that returns a module from features of `shape` `(h, w, F)` to
        parameters `[B, num_params]`, zero at the start. An argument `size`
        gets the size of localisation net. By default a
        `stnjax.nn.LocalisationNet`.
      localisation: Size of localisation net that is made unless another one is
        asked for.
      padding: Values outside the warped images or features, one of
        `stnjax.sampling.UNFILLED`.
      halve_output: Whether the last run of a transformer returns half the
        height and width.
      geometry: Function of a depth that returns the `alignability.Geometry` of
        the features behind so many stages; inferred where None.
      orientations: Number of orientations G of the features of every stage,
        whose channel `f * G + g` is filter f in orientation g, see
        `stnjax.nn.group_convolution`; 1 for ordinary convolutions.
      localisation_width: Factor on the numbers of filters of localisers that a
        placement makes itself.

    Raises:
      ValueError: For an unknown padding, a number of orientations below 1, or
        unless one of `head` and `make_head` is given.
      TypeError: For a stage that cannot be called.
    """
    checks.option("padding", padding, sampling.UNFILLED)
    checks.whole("orientations", orientations, 1)
    if (head is None) == (make_head is None):
      given = "neither" if head is None else "both"
      raise ValueError(f"Backbone takes either head or make_head, got {given}")
    for index, stage in enumerate(stages, 1):
      if not callable(stage):
        raise TypeError(
          f"stages: stage {index} must be an NNX module or a function, got"
          f" {checks.shown(stage)}"
        )
    self.stages = nnx.List(list(stages))
    self.head = head
    self.make_head = make_head
    self.fresh_stages = fresh_stages
    self.localiser = localiser
    self.localisation = localisation
    self.padding = padding
    self.halve_output = halve_output
    self.geometry = geometry
    self.orientations = orientations
    self.localisation_width = localisation_width

  def make_localiser(
    self,
    shape: Sequence[int],
    image_shape: Sequence[int],
    num_params: int,
    *,
    size: str | None = None,
    rngs: nnx.Rngs,
  ) -> Callable[..., jax.Array]:
    """Makes a localisation net.

    Args:
      shape: `(h, w, F)` of the features that it sees.
      image_shape: `(H, W, C)` of the images.
      num_params: Number of parameters to predict.
      size: Size of the net, of those that the backbone has; the backbone's
        default if None.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a size that the backbone does not have.
    """
    size = self.localisation if size is None else size
    make = self.localiser or _default_localiser
    options: dict[str, Any] = {"rngs": rngs}
    if "size" in inspect.signature(make).parameters:
      options["size"] = size
    else:
      checks.option("localisation", size, (self.localisation,))
    return make(tuple(shape), tuple(image_shape), num_params, **options)


BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone")
"""Functions `(task, *, rngs, **options)` by name. Options that scripts know:
`width` and `localisation_width` multiply the numbers of filters and hidden
units, `dropout` says whether there is any, `localisation` is the size of the
localisation net, `init` the initialiser of all layers. `orientations`, the
number of orientations of the convolutions, is given by placements that need
more than 1."""


def _default_localiser(
  shape: Sequence[int],
  image_shape: Sequence[int],
  num_params: int,
  *,
  rngs: nnx.Rngs,
) -> LocalisationNet:
  del image_shape
  return LocalisationNet(shape, num_params, rngs=rngs)


def make_backbone(
  backbone: str | Callable[..., Backbone],
  task: Task,
  *,
  rngs: nnx.Rngs,
  width: float = 1.0,
  localisation_width: float = 1.0,
  dropout: bool = True,
  localisation: str | None = None,
  init: str | None = None,
  orientations: int = 1,
  **options: Any,
) -> Backbone:
  """Makes a backbone by name, with those of the options that it takes.

  Args:
    backbone: Name in `BACKBONES`, or a function such as those.
    task: What to classify.
    rngs: Keys for the initial values.
    width: Factor on the numbers of filters and hidden units of the classifier.
    localisation_width: Factor on those of the localisation nets.
    dropout: Whether the backbone keeps its dropout.
    localisation: Size of the localisation net; the backbone's default if None.
    init: Initialiser of all layers but the last one of localisation nets, one
      of `stnjax.nn.initialisers.INITIALISERS`; the backbone's own if None.
    orientations: Number of orientations of the convolutions; 1 for ordinary
      ones.
    **options: More options of the function.

  Raises:
    ValueError: For an unknown name, an option that the function does not take,
      unless it has its default, or a result that is not a `Backbone`.
  """
  name = backbone if isinstance(backbone, str) else _name(backbone)
  function = BACKBONES[backbone] if isinstance(backbone, str) else backbone
  parameters = inspect.signature(function).parameters
  takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  common = {
    "width": (width, 1.0),
    "localisation_width": (localisation_width, 1.0),
    "dropout": (dropout, True),
    "localisation": (localisation, localisation),  # `place` gets it, too
    "init": (init, None),
  }
  for option, (value, default) in common.items():
    if option in parameters or takes_all:
      options[option] = value
    elif value != default:
      options[option] = value  # to be named below
  if orientations > 1:
    options["orientations"] = orientations
  missing = [p for p in ("task", "rngs") if p not in parameters]
  if missing and not takes_all:
    raise ValueError(
      f"backbone {name!r} must be a function of (task, *, rngs), got one of"
      f" ({', '.join(parameters)})"
    )
  unknown = [o for o in options if o not in parameters and not takes_all]
  if unknown:
    accepted = [p for p in parameters if p not in ("task", "rngs")]
    raise ValueError(
      f"backbone {name!r} does not take {unknown[0]}="
      f"{checks.shown(options[unknown[0]])}; accepted options:"
      f" {', '.join(accepted) or 'none'}{_advice(unknown[0])}"
    )
  made = function(task, rngs=rngs, **options)
  if not isinstance(made, Backbone):
    raise ValueError(
      f"backbone {name!r} must return a placement.Backbone, got"
      f" {checks.shown(made)}"
    )
  if made.fresh_stages is None:
    made.fresh_stages = lambda rngs: list(
      function(task, rngs=rngs, **options).stages
    )
  return made


def _advice(option: str) -> str:
  """Advice on an option that a backbone does not take."""
  if option != "orientations":
    return ""
  return (
    "; networks with orientations, such as GCNN, need a backbone of group"
    " convolutions, such as 'plain'"
  )


def _name(function: Callable[..., Any]) -> str:
  return getattr(function, "__name__", type(function).__name__)
