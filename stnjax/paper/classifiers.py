"""The classifiers of the paper and their localisation nets, as data.

Every convolution is a block, at whose end a transformer may sit: depth X is
after the X-th convolution, with its pooling and nonlinearity. Sources: L.
Finnveden, Y. Jansson and T. Lindeberg, ICPR 2020 (arXiv:2004.11678), and for
house numbers Jaderberg et al. 2015. What those leave open is marked "ours".
"""

from collections.abc import Mapping
import dataclasses

from stnjax import checks


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution, then batch norm, max pooling, nonlinearity and dropout.

  Attributes:
    filters: how many.
    kernel_size: pixels.
    pool: window of the max pooling, of stride 2; 0 for none.
    padding: "VALID" or "SAME".
    batch_norm: whether the convolution is normalised over the batch.
    dropout: share of the results that training drops.
  """

  filters: int
  kernel_size: int
  pool: int = 0
  padding: str = "SAME"
  batch_norm: bool = False
  dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Localisation:
  """A localisation net but for its last layer.

  Attributes:
    convs: filters and kernel size of each convolution.
    pools: how many of them, from the first on, 2 x 2 pooling follows; None for
      all.
    dense: widths of the hidden dense layers.
    halved: whether it sees the input at half its size.
  """

  convs: tuple[tuple[int, int], ...] = ()
  dense: tuple[int, ...] = ()
  halved: bool = False
  pools: int | None = None


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A classifier and what belongs to it.

  Attributes:
    convs: its blocks.
    localisation: its localisation nets, by size.
    dense: widths of the hidden dense layers.
    dropout: share of their results that training drops.
    slope: of the nonlinearity (a leaky ReLU) below 0.
    padding: of the transformer.
    halve: whether the last run of the transformer halves what it warps.
    init: of the kernels, a name in `flax.nnx.initializers`.
  """

  convs: tuple[Conv, ...]
  localisation: Mapping[str, Localisation]
  dense: tuple[int, ...] = ()
  dropout: float = 0.0
  slope: float = 0.0
  padding: str = "border"
  halve: bool = False
  init: str = "lecun_normal"

  def resized(
    self, width: float, localisation_width: float, dropout: bool = True
  ) -> "Classifier":
    """The same with every filter and hidden unit count multiplied.

    Args:
      width: multiplies the classifier's.
      localisation_width: multiplies the localisation nets'.
      dropout: whether to keep it; what is narrow learns little with it.

    Raises:
      ValueError: for a factor that is not positive, or so large that a
        layer would have 2^31 units.
    """
    factors = {"width": width, "localisation_width": localisation_width}
    for name, factor in factors.items():
      if not 0 < factor < _WIDEST:
        raise ValueError(
          f"{name} must be positive and less than {_WIDEST:,}, got {factor}"
        )
    return dataclasses.replace(
      self,
      convs=tuple(
        dataclasses.replace(
          conv,
          filters=_scaled(conv.filters, width),
          dropout=conv.dropout * dropout,
        )
        for conv in self.convs
      ),
      dropout=self.dropout * dropout,
      dense=tuple(_scaled(units, width) for units in self.dense),
      localisation={
        size: dataclasses.replace(
          net,
          convs=tuple(
            (_scaled(filters, localisation_width), kernel_size)
            for filters, kernel_size in net.convs
          ),
          dense=tuple(_scaled(u, localisation_width) for u in net.dense),
        )
        for size, net in self.localisation.items()
      },
    )


def find(dataset: str, perturbation: str = "none") -> Classifier:
  """The classifier of a data set.

  Args:
    dataset: one of `stnjax.data.SETS`.
    perturbation: one of `stnjax.data.perturbations.PERTURBATIONS`; MNIST's
      localisation nets depend on it.

  Raises:
    ValueError: for a set without a classifier.
  """
  checks.option("dataset", dataset, tuple(_BY_DATASET))
  classifier = _BY_DATASET[dataset]
  if classifier is MNIST and perturbation in ("translation", "scale"):
    return MNIST_TRANSLATION if perturbation == "translation" else MNIST_SCALE
  return classifier


_WIDEST = 2**19  # of layers of 3072 units: fewer than 2^31 of them


def _scaled(count: int, factor: float) -> int:
  return max(1, round(factor * count))


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
  halve=True,
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
    Conv(filters, 5, pool=2 * (place % 2), dropout=0.5 * (place > 1))
    for place, filters in enumerate((48, 64, 128, 160, 192, 192, 192, 192), 1)
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
    Conv(filters, 3, pool=3 * (place in (2, 4, 7, 10)))
    for place, filters in enumerate(
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

_BY_DATASET = {
  "mnist": MNIST,
  "mnist_subset": MNIST,
  "svhn": HOUSE_NUMBERS,
  "street_numbers": HOUSE_NUMBERS,
  "plankton": PLANKTON,
  "drifters": PLANKTON,
  "cifar10": CIFAR,
  "svhn_cropped": CIFAR,
  "street_digits": CIFAR,
}
