"""The classifiers of the paper and their localisation nets, as data.

Every convolution is a block, at whose end a transformer may sit: depth X is
after the X-th convolution, with its pooling and nonlinearity. Sources: L.
Finnveden, Y. Jansson and T. Lindeberg, ICPR 2020 (arXiv:2004.11678), and for
house numbers Jaderberg et al. 2015. What those leave open is marked "ours".
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from stnjax.placement.blocks import check_factors, scaled


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, then batch norm, max pooling, leaky ReLU and dropout.

  Attributes:
    filters: Number of filters.
    kernel_size: Pixels along a side of the kernel.
    pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
    padding: "VALID" or "SAME", of the convolution.
    batch_norm: Whether a batch norm follows the convolution.
    dropout: Share of the results that training drops.
  """

  filters: int
  kernel_size: int
  pool: int = 0
  padding: str = "SAME"
  batch_norm: bool = False
  dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Localisation:
  """A localisation net without its last layer.

  Attributes:
    convs: Number of filters and kernel size of each convolution.
    pools: Number of convolutions, from the first on, that 2 x 2 max pooling
      follows; None for all.
    dense: Widths of the hidden dense layers.
    halved: Whether it sees the input at half its size.
  """

  convs: tuple[tuple[int, int], ...] = ()
  dense: tuple[int, ...] = ()
  halved: bool = False
  pools: int | None = None

  def sized_for(
    self, shape: Sequence[int], image_shape: Sequence[int]
  ) -> "Localisation":
    """The same for features instead of the image.

    Dense layers on features are matched, see `matched_widths`; convolutions
    stay, and what follows them costs less, the smaller the features. Only the
    image itself is halved.

    Args:
      shape: `(h, w, F)` of the features.
      image_shape: `(H, W, C)` of the image.
    """
    if tuple(shape) == tuple(image_shape):
      return self
    dense = self.dense
    if not self.convs:
      dense = matched_widths(dense, math.prod(shape), math.prod(image_shape))
    return dataclasses.replace(self, dense=dense, halved=False)


def matched_widths(
  widths: Sequence[int], num_features: int, reference: int
) -> tuple[int, ...]:
  """Sizes the first layer so that deeper placements cost as many parameters.

  A feature map is often many times larger than the image, and a dense layer
  on it would dwarf the classifier. With the returned first width, a net that
  sees `num_features` has about as many parameters as one with `widths` that
  sees `reference`. It is at least half of the original, so that the layer is
  no bottleneck.

  Args:
    widths: Widths of the hidden layers of the net that sees the input.
    num_features: Number of features that this net sees.
    reference: Number of features of the input.

  Returns:
    The widths to use.
  """
  if not widths:
    return ()
  first, *rest = widths
  onward = 1 + (rest[0] if rest else 0)  # a unit's bias and outgoing weights
  matched = round(first * (reference + onward) / (num_features + onward))
  return (max(matched, first // 2, 1), *rest)


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A classifier and its localisation nets.

  Attributes:
    convs: Its convolutions.
    localisation: Its localisation nets, by size.
    dense: Widths of the hidden dense layers.
    dropout: Share of their results that training drops.
    slope: Negative slope of the leaky ReLU.
    padding: Padding of the transformer.
    halves_from: Side of the smallest images of which the last run of the
      transformer halves what it warps; 0 for none.
    init: Initialiser of the kernels, a name in `flax.nnx.initializers`.
  """

  convs: tuple[Conv, ...]
  localisation: Mapping[str, Localisation]
  dense: tuple[int, ...] = ()
  dropout: float = 0.0
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
            (scaled(filters, localisation_width), kernel_size)
            for filters, kernel_size in net.convs
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
  localisation={"small": Localisation(dense=(32, 32, 32))},
)
MNIST_TRANSLATION = dataclasses.replace(
  MNIST,
  localisation={"small": Localisation(((20, 5), (20, 5)), (20,))},
  halves_from=60,  # smaller ones are of the size that it returns
)
MNIST_SCALE = dataclasses.replace(
  MNIST,
  localisation={"small": Localisation(((20, 5), (20, 5)), (20,), halved=True)},
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
  localisation={"small": Localisation(((32, 5), (32, 5)), (32, 32), pools=1)},
  padding="zeros",
  init="he_normal",
)

# The filters of the localisation nets are ours.
PLANKTON = Classifier(
  convs=tuple(
    Conv(filters, 3, pool=3 * (index in (2, 4, 7, 10)))
    for index, filters in enumerate(
      (32, 32, 64, 64, 128, 128, 128, 256, 256, 256), 1
    )
  ),
  dense=(512, 512),
  dropout=0.5,
  slope=1 / 3,
  localisation={
    "small": Localisation(((16, 3),) * 2, (64, 64)),
    "large": Localisation(((16, 3),) * 4, (64, 64)),
  },
  init="he_normal",
)

# The pooling in the localisation net is ours.
CIFAR = Classifier(
  convs=tuple(
    Conv(
      filters,
      3,
      pool=2 * last,
      batch_norm=True,
      dropout=dropout * last,
    )
    for filters, dropout in ((32, 0.2), (64, 0.3), (128, 0.4))
    for last in (False, True)
  ),
  localisation={"small": Localisation(((20, 5), (40, 5)), (80,))},
  padding="zeros",
)
