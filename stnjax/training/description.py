"""Description of a task in a run's folder, complete enough for reports."""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from stnjax import data


class AxisDescription(NamedTuple):
  """An axis along which alignment is measured, see `stnjax.data.Axis`.

  Attributes:
    name: Name of the axis, such as "rotation".
    unit: Unit of its values, such as "deg".
    period: Values that differ by it are the same, 360 for degrees; or None.
  """

  name: str
  unit: str
  period: float | None = None


@dataclasses.dataclass(frozen=True)
class TaskDescription:
  """A classification task, without the data.

  Attributes:
    image_shape: `(H, W, C)` of the perturbed images, before downsampling.
    num_classes: Classes of each head.
    heads: Answers per image.
    class_names: Names of the classes; empty where they have none.
    axes: Axes of the perturbation by name; empty where its truth is unknown.
    title: Name of the task in reports, such as "rotated MNIST (subset)"; tasks
      that differ in it alone are equal.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  heads: int = 1
  class_names: tuple[str, ...] = ()
  axes: Mapping[str, AxisDescription] = dataclasses.field(default_factory=dict)
  title: str = dataclasses.field(default="", compare=False)

  def to_json(self) -> dict[str, Any]:
    """The description as JSON takes it."""
    return {
      "title": self.title,
      "image_shape": list(self.image_shape),
      "num_classes": self.num_classes,
      "heads": self.heads,
      "class_names": list(self.class_names),
      "axes": {
        name: {"unit": axis.unit, "period": axis.period}
        for name, axis in self.axes.items()
      },
    }

  def class_name(self, index: int) -> str:
    """Name of a class; its number where it has none."""
    return self.class_names[index] if self.class_names else str(index)


def describe(
  dataset: data.Dataset, perturbation: data.Perturbation
) -> TaskDescription:
  """The task of classifying a data set under a perturbation."""
  name = dataset.title or dataset.name.replace("_", " ")
  words = perturbation.name.replace("_", " ")
  title = (perturbation.title or f"{{}}, {words}").replace("{}", name)
  return TaskDescription(
    data.output_shape(perturbation, dataset.image_shape),
    dataset.num_classes,
    dataset.heads,
    tuple(dataset.class_names),
    {
      axis.name: AxisDescription(axis.name, axis.unit, axis.period)
      for axis in perturbation.axes
    },
    title,
  )


def from_json(values: Mapping[str, Any]) -> TaskDescription:
  """Reads what `TaskDescription.to_json` made.

  Raises:
    ValueError: If something is missing or of another form.
  """
  if not values:
    raise ValueError("it names no task: an older version of stnjax wrote it")
  try:
    axes = {
      str(name): AxisDescription(str(name), str(axis["unit"]), axis["period"])
      for name, axis in values["axes"].items()
    }
    height, width, channels = map(int, values["image_shape"])
    description = TaskDescription(
      (height, width, channels),
      int(values["num_classes"]),
      int(values["heads"]),
      tuple(map(str, values["class_names"])),
      axes,
      str(values["title"]),
    )
  except (
    AttributeError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(f"its task is damaged ({error!r})") from error
  periods = [axis.period for axis in axes.values()]
  fine = (
    len(description.image_shape) == 3
    and min(*description.image_shape, description.heads) > 0
    and description.num_classes > 0
    and len(description.class_names) in (0, description.num_classes)
    and all(p is None or isinstance(p, int | float) and p > 0 for p in periods)
  )
  if not fine:
    raise ValueError(f"its task is damaged: {values!r}"[:200])
  return description
