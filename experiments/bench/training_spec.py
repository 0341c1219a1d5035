"""Networks and settings of the training benchmark, for any framework."""

from collections.abc import Sequence
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
  """A network: convolutional blocks, a dense head, and a transformer.

  Attributes:
    image_shape: `(H, W, C)` of the images.
    num_classes: Number of logits.
    convs: Filters and kernel size of each block, a convolution without padding,
      2 x 2 max pooling and a ReLU.
    kind: Placement of the transformer: "CNN" for none, "C", "DL" or "SL".
    depth: Number of blocks in front of the localisation net.
    pool_features: Whether 2 x 2 max pooling precedes the localisation net.
    hidden: Widths of the hidden layers of the localisation net.
    family: Transform family, "affine" or "rotation".
    padding: Padding mode of the transformer, as torch calls it.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  convs: Sequence[tuple[int, int]]
  kind: str = "CNN"
  depth: int = 0
  pool_features: bool = False
  hidden: Sequence[int] = ()
  family: str = "affine"
  padding: str = "border"

  @property
  def shapes(self) -> list[tuple[int, int, int]]:
    """`(H, W, C)` of the image and behind each block."""
    shapes = [self.image_shape]
    for filters, kernel_size in self.convs:
      height, width, _ = shapes[-1]
      lost = kernel_size - 1
      shapes.append(((height - lost) // 2, (width - lost) // 2, filters))
    return shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec:
  """Training of a network, on images rotated by up to 90 degrees.

  Attributes:
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
    mean: Mean that is subtracted from pixels in [0, 1].
    std: Standard deviation that they are divided by.
  """

  batch_size: int
  total_steps: int
  optimiser: str
  momentum: float
  learning_rate: float
  schedule: str
  localisation_lr: float
  pre_transformer_lr: float
  mean: float
  std: float
