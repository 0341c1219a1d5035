"""Objects found by name: one registry for each kind of object."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
  """Objects of one kind by name, in the order in which they were added.

  Looking up an unknown name raises a ValueError that lists the known ones.

  >>> shapes = Registry("shape")
  >>> shapes.register("square", 4)
  4
  >>> shapes["square"]
  4
  >>> @shapes.register("circle")
  ... def circle(): return 0
  >>> list(shapes)
  ['square', 'circle']
  """

  def __init__(self, kind: str):
    """Makes an empty registry.

    Args:
      kind: Argument name of such an object, for errors: "dataset", "method".
    """
    self.kind = kind
    self._objects: dict[str, T] = {}

  @overload
  def register(self, name: str, value: T, *, replace: bool = False) -> T: ...

  @overload
  def register(
    self, name: str, value: None = None, *, replace: bool = False
  ) -> Callable[[T], T]: ...

  def register(
    self, name: str, value: T | None = None, *, replace: bool = False
  ) -> Callable[[T], T] | T:
    """Adds an object, or decorates a function or class that is one.

    Args:
      name: Name of the object, a non-empty string without spaces.
      value: The object; None to use the call as a decorator.
      replace: Whether an object of the same name may be replaced.

    Returns:
      The object, or the decorator.

    Raises:
      ValueError: If the name is taken or is not accepted.
    """
    if not isinstance(name, str) or not name or any(map(str.isspace, name)):
      raise ValueError(
        f"{self.kind} name must be a string without spaces, got {name!r}"
      )
    if name in self._objects and not replace:
      raise ValueError(
        f"{self.kind}={name!r} is already registered; choose another name, or"
        " pass replace=True"
      )

    def add(added: T) -> T:
      self._objects[name] = added
      return added

    return add if value is None else add(value)

  def __getitem__(self, name: str) -> T:
    if not isinstance(name, str) or name not in self._objects:
      raise ValueError(
        f"{self.kind}={name!r} is unknown; accepted: {', '.join(self)}"
      )
    return self._objects[name]

  def get(self, name: str, default: Any = None) -> T | Any:
    """The object of that name, or the default."""
    return self._objects.get(name, default)

  def __contains__(self, name: object) -> bool:
    return isinstance(name, str) and name in self._objects

  def __iter__(self) -> Iterator[str]:
    return iter(self._objects)

  def __len__(self) -> int:
    return len(self._objects)
