"""The classifiers of the paper and their localisation nets, as data.

Every convolution is a block, at whose end a transformer may sit: depth X is
after the X-th convolution, with its pooling and nonlinearity. Sources: L.
Finnveden, Y. Jansson and T. Lindeberg, ICPR 2020 (arXiv:2004.11678), with their
published code, and for house numbers Jaderberg et al. 2015. What those leave
open is marked "ours".
"""

from collections.abc import Mapping, Sequence
import dataclasses

from stnjax.nn import LocalisationConv
from stnjax.placement.blocks import check_factors, scaled

# Sides in pixels of the smallest features that a net of MNIST pools, ours: the
# 2 x 2 pixels of depth 2 are kept.
_POOLED_FROM = 8


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, then leaky ReLU, batch norm, max pooling and dropout.

  Attributes:
    filters: Number of filters.
    kernel_size: Pixels along a side of the kernel.
    pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
    padding: "VALID" or "SAME", of the convolution.
    batch_norm: Whether a batch norm follows the leaky ReLU.
    dropout: Share of the results that training drops.
    drop_channels: Whether dropout drops whole channels.
  """

  filters: int
  kernel_size: int
  pool: int = 0
  padding: str = "SAME"
  batch_norm: bool = False
  dropout: float = 0.0
  drop_channels: bool = False


@dataclasses.dataclass(frozen=True)
class Localisation:
  """A localisation net without its last layer.

  Attributes:
    convs: Its convolutions.
    dense: Widths of the hidden dense layers.
    halve_image: Whether it sees the image at half its size.
    pool_features: Whether 2 x 2 max pooling of features, of at least 8 pixels
      along each side, comes first.
  """

  convs: tuple[LocalisationConv, ...] = ()
  dense: tuple[int, ...] = ()
  halve_image: bool = False
  pool_features: bool = False

  def halving(
    self, shape: Sequence[int], image_shape: Sequence[int]
  ) -> str | None:
    """Halving of its input: "mean" or "max" over 2 x 2 pixels, or None.

    Args:
      shape: `(h, w, F)` of the features that it sees.
      image_shape: `(H, W, C)` of the image.
    """
    if tuple(shape) == tuple(image_shape):
      return "mean" if self.halve_image else None
    roomy = min(shape[:2]) >= _POOLED_FROM
    return "max" if self.pool_features and roomy else None


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A classifier and its localisation nets.

  Attributes:
    convs: Its convolutions.
    localisation: Its localisation nets, by size.
    dense: Widths of the hidden dense layers.
    dropout: Share of their results that training drops.
    drop_features: Whether dropout also drops the features before them.
    default_localisation: Size of the localisation net unless another is asked
      for.
    slope: Negative slope of the leaky ReLU.
    padding: Padding of the transformer.
    halves_from: Side of the smallest images for which the last run of the
      transformer halves its output; 0 for none.
    init: Initialiser of the classifier, one of
      `stnjax.nn.initialisers.INITIALISERS`.
  """

  convs: tuple[Conv, ...]
  localisation: Mapping[str, Localisation]
  dense: tuple[int, ...] = ()
  dropout: float = 0.0
  drop_features: bool = False
  default_localisation: str = "small"
  slope: float = 0.0
  padding: str = "border"
  halves_from: int = 0
  init: str = "lecun_normal"

  def resized(
    self, width: float, localisation_width: float, dropout: bool = True
  ) -> "Classifier":
    """The same with other numbers of filters and hidden units.

    Args:
      width: Factor on those of the classifier.
      localisation_width: Factor on those of the localisation nets.
      dropout: Whether to keep the dropout; narrow networks learn little with
        it.

    Raises:
      ValueError: For a factor that is not positive, or so large that a layer
        would have 2^31 units.
    """
    check_factors(width=width, localisation_width=localisation_width)
    return dataclasses.replace(
      self,
      convs=tuple(
        dataclasses.replace(
          conv,
          filters=scaled(conv.filters, width),
          dropout=conv.dropout * dropout,
        )
        for conv in self.convs
      ),
      dropout=self.dropout * dropout,
      dense=tuple(scaled(units, width) for units in self.dense),
      localisation={
        size: dataclasses.replace(
          net,
          convs=tuple(
            dataclasses.replace(
              conv, filters=scaled(conv.filters, localisation_width)
            )
            for conv in net.convs
          ),
          dense=tuple(scaled(u, localisation_width) for u in net.dense),
        )
        for size, net in self.localisation.items()
      },
    )


MNIST = Classifier(
  convs=(
    Conv(64, 9, pool=2, padding="VALID"),
    Conv(64, 7, pool=2, padding="VALID"),
  ),
  localisation={
    "small": Localisation(dense=(32, 32, 32), pool_features=True),
    "large": Localisation(dense=(32, 32, 32)),
  },
)
MNIST_TRANSLATION = dataclasses.replace(
  MNIST,
  localisation={
    "small": Localisation(
      (LocalisationConv(20, 5), LocalisationConv(20, 5, pool_above=20)), (20,)
    )
  },
  halves_from=60,  # smaller ones are of the size that it returns
)
MNIST_SCALE = dataclasses.replace(
  MNIST,
  localisation={
    "small": Localisation(
      (LocalisationConv(20, 5), LocalisationConv(20, 5)),
      (20,),
      halve_image=True,
    )
  },
)

# Jaderberg et al. 2015, section 4.2: dropout in all layers but the first. That
# deep stacks without batch norm start from He et al. 2015, so that they learn
# from the first epoch on, is ours.
HOUSE_NUMBERS = Classifier(
  convs=tuple(
    Conv(filters, 5, pool=2 * (index % 2), dropout=0.5 * (index > 1))
    for index, filters in enumerate((48, 64, 128, 160, 192, 192, 192, 192), 1)
  ),
  dense=(3072, 3072, 3072),
  dropout=0.5,
  localisation={
    "small": Localisation(dense=(32, 32)),
    "large": Localisation(
      (
        LocalisationConv(32, 5, padding="SAME"),
        LocalisationConv(32, 5, padding="SAME", pool=0),
      ),
      (32, 32),
    ),
  },
  default_localisation="large",
  padding="zeros",
  init="he_normal",
)


def _plankton_localisation(*pairs: int) -> Localisation:
  """Two convolutions of so many filters each, a 3 x 3 pool behind each pair."""
  return Localisation(
    tuple(
      LocalisationConv(filters, 3, padding="SAME", pool=pool)
      for filters in pairs
      for pool in (0, 3)
    ),
    (64, 64),
  )


# That it starts from He et al. 2015 is ours.
PLANKTON = Classifier(
  convs=tuple(
    Conv(filters, 3, pool=3 * (index in (2, 4, 7, 10)))
    for index, filters in enumerate(
      (32, 32, 64, 64, 128, 128, 128, 256, 256, 256), 1
    )
  ),
  dense=(512, 512),
  dropout=0.5,
  drop_features=True,
  slope=1 / 3,
  localisation={
    "small": _plankton_localisation(32),
    "large": _plankton_localisation(32, 64),
  },
  init="he_normal",
)

CIFAR = Classifier(
  convs=tuple(
    Conv(
      filters,
      3,
      pool=2 * last,
      batch_norm=True,
      dropout=dropout * last,
      drop_channels=True,
    )
    for filters, dropout in ((32, 0.2), (64, 0.3), (128, 0.4))
    for last in (False, True)
  ),
  localisation={
    "small": Localisation(
      tuple(
        LocalisationConv(filters, 5, padding="SAME", batch_norm=True)
        for filters in (20, 40)
      ),
      (80,),
    )
  },
  padding="zeros",
)
