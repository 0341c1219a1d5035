"""Audits as JSON text with a checksum."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import jax
import numpy as np

from stnjax.alignability.audits import Audit
from stnjax.alignability.families import ImageTransforms
from stnjax.alignability.geometry import Geometry
from stnjax.alignability.residuals import Residuals

_DECIMALS = 5  # of residuals

# What parsed JSON of another form may raise.
_OTHER_FORM = (
  ValueError,
  TypeError,
  AttributeError,
  LookupError,
  ArithmeticError,
  RecursionError,
)


def to_json(audits: Mapping[str, Audit]) -> str:
  """Converts audits to JSON.

  Args:
    audits: Audits by state of the network, such as "trained", of the same
      layers and families.

  Returns:
    One line of text with a checksum. Residuals have 5 decimals, and null for
    NaN; the matrices of the families are not kept.

  Raises:
    ValueError: For no audits, or audits of different layers or families.
  """
  _check_alike(audits)
  values = {state: _plain(audit) for state, audit in audits.items()}
  return _text({"sha256": checksum(values), "audits": values})


def from_json(text: str | bytes) -> dict[str, Audit]:
  """Reads audits from JSON.

  Args:
    text: Text that `to_json` returned.

  Returns:
    Audits by state of the network; their families have no matrices.

  Raises:
    ValueError: If the text is damaged.
  """
  try:
    stored = json.loads(text)
    if stored["sha256"] != checksum(stored["audits"]):
      raise ValueError("the checksum does not match")
    audits = {name: _audit(value) for name, value in stored["audits"].items()}
    _check_alike(audits)
  except _OTHER_FORM as error:
    reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"audits are damaged: {reason}") from error
  return audits


def _plain(audit: Audit) -> dict[str, Any]:
  """An audit as dictionaries, lists, numbers and None."""
  return {
    "families": {
      name: {"magnitudes": family.magnitudes, "unit": family.unit}
      for name, family in audit.families.items()
    },
    "geometry": {
      layer: where._asdict() for layer, where in audit.geometry.items()
    },
    "residuals": {
      layer: {
        name: {
          kind: _numbers(value) for kind, value in residuals._asdict().items()
        }
        for name, residuals in by_family.items()
      }
      for layer, by_family in audit.residuals.items()
    },
  }


def _numbers(values: jax.Array | np.ndarray) -> Any:
  """Rounded numbers as lists, None for those that are not finite."""
  rounded = np.round(np.asarray(values, np.float64), _DECIMALS)
  numbers = np.asarray(rounded, object)
  numbers[~np.isfinite(rounded)] = None
  return numbers.tolist()


def _audit(values: Mapping[str, Any]) -> Audit:
  """The inverse of `_plain`; raises one of `_OTHER_FORM` if there is none."""
  families = {
    name: ImageTransforms(None, tuple(family["magnitudes"]), family["unit"])
    for name, family in values["families"].items()
  }
  geometry = {
    layer: Geometry(**{name: tuple(pair) for name, pair in where.items()})
    for layer, where in values["geometry"].items()
  }
  residuals = {
    layer: {
      name: Residuals(
        # NaN for None
        **{kind: np.array(v, np.float64) for kind, v in by_kind.items()}
      )
      for name, by_kind in by_family.items()
    }
    for layer, by_family in values["residuals"].items()
  }
  audit = Audit(families, geometry, residuals)
  _check_shapes(audit)
  return audit


def _check_shapes(audit: Audit) -> None:
  """Raises unless every array has the shape that the others ask for."""
  if not audit.layers or set(audit.geometry) != set(audit.layers):
    raise ValueError("geometry and residuals are not of the same layers")
  for where in audit.geometry.values():
    np.array(where, np.float64).reshape(3, 2)
  for by_family in audit.residuals.values():
    for name, family in audit.families.items():
      *residuals, coverage = by_family[name]
      shape = (len(family.magnitudes), residuals[0].shape[1])
      if coverage.shape != shape[:1] or any(
        r.shape != shape for r in residuals
      ):
        raise ValueError(f"residuals of {name!r} differ in shape")
      np.array(family.magnitudes, np.float64)


def _check_alike(audits: Mapping[str, Audit]) -> None:
  """Raises unless the audits are of the same layers and families."""
  kinds = {(audit.layers, tuple(audit.families)) for audit in audits.values()}
  if len(kinds) != 1:
    raise ValueError(
      "audits must be of the same layers and families, got"
      f" {len(kinds) or 'no'} different ones"
    )


def checksum(values: Any) -> str:
  """SHA-256 of values as JSON."""
  return hashlib.sha256(_text(values).encode()).hexdigest()


def _text(values: Any) -> str:
  return json.dumps(values, allow_nan=False)
