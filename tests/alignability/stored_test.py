"""Audits as text: what comes back, and what is refused."""

import json

import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import ImageTransforms, from_json, stored, to_json


def made_up(layers=("input", "block 1"), names=("rotation", "shear")):
  """An audit of three images."""
  rng = np.random.default_rng(0)
  return alignability.Audit(
    {name: alignability.FAMILIES[name] for name in names},
    {
      layer: alignability.Geometry((0.5, 0.0), (1.0, 2.0), (2.0, 2.5))
      for layer in layers
    },
    {
      layer: {
        name: alignability.Residuals(
          *rng.random((4, len(alignability.FAMILIES[name].magnitudes), 3)),
          rng.random(len(alignability.FAMILIES[name].magnitudes)),
        )
        for name in names
      }
      for layer in layers
    },
  )


def test_audits_come_back():
  audit = made_up()
  audit.residuals["block 1"]["shear"].best[1, 2] = np.nan
  audits = {"trained": audit, "untrained": made_up()}
  text = to_json(audits)
  json.loads(text, parse_constant=pytest.fail)  # no NaN, which JSON has not
  again = from_json(text.encode())
  assert list(again) == ["trained", "untrained"]
  assert to_json(again) == text
  for state, audit in audits.items():
    assert again[state].geometry == audit.geometry
    assert again[state].families == {
      name: ImageTransforms(None, family.magnitudes, family.unit)
      for name, family in audit.families.items()
    }
    for layer, by_family in audit.residuals.items():
      for name, residuals in by_family.items():
        values = again[state].residuals[layer][name]
        for value, expected in zip(values, residuals, strict=True):
          np.testing.assert_allclose(value, expected, atol=0.6e-5)


def test_audits_of_different_networks_are_refused():
  for other in (made_up(layers=("input",)), made_up(names=("shear",))):
    with pytest.raises(ValueError, match="of the same layers and families"):
      to_json({"a": made_up(), "b": other})
  with pytest.raises(ValueError, match="got no different ones"):
    to_json({})


@pytest.mark.parametrize(
  "text",
  [
    b"",
    b"{",
    b"3",
    b"[1, 2]",
    b"[" * 100000,
    bytes(range(256)),
    b'{"sha256": 3}',
    b'{"trained": 3}',
    b'{"sha256": "", "audits": {"trained": 3}}',
  ],
)
def test_damaged_text_is_refused(text):
  with pytest.raises(ValueError, match="audits are damaged"):
    from_json(text)


def test_every_changed_bit_is_refused():
  text = to_json({"trained": made_up(("input",), ("shear",))}).encode()
  for index in range(0, len(text), 7):
    changed = bytearray(text)
    changed[index] ^= 1
    with pytest.raises(ValueError, match="audits are damaged"):
      from_json(bytes(changed))


def with_checksum(change):
  """Text that is whole, of an audit that a function has changed."""
  values = json.loads(to_json({"trained": made_up()}))["audits"]
  change(values["trained"])
  return json.dumps({"sha256": stored.checksum(values), "audits": values})


@pytest.mark.parametrize(
  "change",
  [
    lambda audit: audit.pop("geometry"),
    lambda audit: audit["geometry"].pop("block 1"),
    lambda audit: audit["geometry"]["input"].update(first=[1.0]),
    lambda audit: audit["geometry"]["input"].update(last=[1.0, 2.0]),
    lambda audit: audit["families"].update(scale={}),
    lambda audit: audit["families"]["shear"].update(magnitudes=[1.0]),
    lambda audit: audit["families"]["shear"].update(magnitudes=["a"] * 4),
    lambda audit: audit["residuals"]["input"].pop("shear"),
    lambda audit: audit["residuals"]["input"]["shear"].update(best=[[1.0]]),
    lambda audit: audit["residuals"]["input"]["shear"].update(coverage=[1.0]),
    lambda audit: audit.update(residuals={}, geometry={}),
  ],
)
def test_audits_of_another_form_are_refused(change):
  with pytest.raises(ValueError, match="audits are damaged"):
    from_json(with_checksum(change))
