"""Networks and settings of the training benchmark, for any framework."""

from collections.abc import Sequence
import dataclasses

Shape = tuple[int, int, int]
"""Height, width and channels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
  """A convolution, ReLU, batch norm, max pooling and dropout.

  Attributes:
    filters: Number of filters.
    kernel_size: Pixels along a side of the kernel.
    padded: Whether the convolution keeps the size.
    pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
    batch_norm: Whether there is a batch norm.
    dropout: Share of the results that training drops.
    drop_channels: Whether it drops whole channels.
  """

  filters: int
  kernel_size: int
  padded: bool = False
  pool: int = 0
  batch_norm: bool = False
  dropout: float = 0.0
  drop_channels: bool = False

  def shape(self, before: Shape) -> Shape:
    """Shape of its results, of that of the features before it."""
    lost = 0 if self.padded else self.kernel_size - 1
    height, width = (side - lost for side in before[:2])
    if self.pool:
      height, width = ((side - self.pool) // 2 + 1 for side in (height, width))
    return height, width, self.filters


def shapes_behind(first: Shape, blocks: Sequence[Block]) -> list[Shape]:
  """The shape in front of blocks, and behind each."""
  shapes = [first]
  for block in blocks:
    shapes.append(block.shape(shapes[-1]))
  return shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalisationSpec:
  """A localisation net.

  Attributes:
    halving: "mean" or "max" over 2 x 2 pixels in front of it, or None.
    blocks: Its convolutions.
    hidden: Widths of its hidden layers.
  """

  halving: str | None
  blocks: Sequence[Block]
  hidden: Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
  """A network: convolutional blocks, a dense head, and a transformer.

  Attributes:
    image_shape: `(H, W, C)` of the images.
    answer: Number of classes, after that of heads if there are several.
    blocks: Its convolutions.
    dense: Widths of the hidden dense layers.
    dropout: Share of their results that training drops.
    kind: Placement of the transformer: "CNN" for none, "C", "DL" or "SL".
    depth: Number of blocks in front of the localisation net.
    localiser: The localisation net, where there is a transformer.
    family: Transform family, "affine" or "rotation".
    padding: Padding mode of the transformer, as torch calls it.
  """

  image_shape: Shape
  answer: Sequence[int]
  blocks: Sequence[Block]
  dense: Sequence[int] = ()
  dropout: float = 0.0
  kind: str = "CNN"
  depth: int = 0
  localiser: LocalisationSpec | None = None
  family: str = "affine"
  padding: str = "border"

  @property
  def shapes(self) -> list[Shape]:
    """`(H, W, C)` of the image and behind each block."""
    return shapes_behind(self.image_shape, self.blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec:
  """Training of a network.

  Attributes:
    rotated: Whether images are rotated at random, by up to 90 degrees.
    batch_size: Images of a step.
    total_steps: Steps that the schedule spans.
    optimiser: "adam" or "sgd".
    momentum: Momentum of "sgd".
    learning_rate: Learning rate at the start.
    schedule: "constant", "cosine" to zero, or "step": a tenth after half of the
      steps, a hundredth after three quarters.
    localisation_lr: Multiplier on the learning rate of localisation.
    pre_transformer_lr: Multiplier on the learning rate of the blocks in front
      of the transformer, or shared with localisation.
    mean: Mean that is subtracted from pixels in [0, 1], of each channel.
    std: Standard deviation that they are divided by, of each channel.
  """

  rotated: bool
  batch_size: int
  total_steps: int
  optimiser: str
  momentum: float
  learning_rate: float
  schedule: str
  localisation_lr: float
  pre_transformer_lr: float
  mean: Sequence[float]
  std: Sequence[float]
