"""Audits of runs: what is read, measured, kept and reported."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from experiments.lib import loop
from experiments.reporting import auditing, finished, report
from stnjax import alignability
from stnjax.files import RunError
from stnjax.training import building, trained
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets

# Not perturbed, so that its predictions can be made again.
TOY = dataclasses.replace(
  toy_sets.SETTINGS,
  network="CNN",
  epochs=1,
  perturbation="none",
  learning_rate=0.001,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("runs"))
  with toy_sets.loaded():
    loop.train(TOY, (0,), folder, devices=jax.devices()[:1])
  return folder


@pytest.fixture(scope="module")
def audits(workdir):
  with toy_sets.loaded():
    return auditing.audit(Run(workdir, TOY), count=4, steps=2)


@pytest.mark.slow
def test_the_network_of_a_run_is_the_one_that_was_evaluated(workdir):
  run = Run(workdir, TOY)
  images = toy_sets.load("mnist_subset", "train").images
  tested = toy_sets.load("mnist_subset", "test").images
  predictions = {}
  for state in (True, False):
    network, preparation = trained.network_of(
      run, building.find(TOY), images, trained=state
    )
    logits = network(auditing.prepare(preparation, tested)).logits
    predictions[state] = np.asarray(logits.argmax(axis=-1))
  _, _, arrays = scripts.metrics(workdir, TOY)
  np.testing.assert_array_equal(predictions[True], arrays["predicted"][0])
  assert (predictions[False] != predictions[True]).any()


def test_a_run_without_checkpoint_has_no_trained_network(tmp_path):
  images = toy_sets.load("mnist_subset", "train").images
  with pytest.raises(RunError, match="has no checkpoint to read the netw"):
    trained.network_of(Run(str(tmp_path), TOY), building.find(TOY), images)


@pytest.mark.slow
def test_both_states_and_all_layers_are_audited(audits):
  assert tuple(audits) == auditing.STATES
  for one in audits.values():
    assert one.layers == ("input", "block 1", "block 2")
    assert list(one.families) == list(alignability.FAMILIES)
    # Whole strides of both blocks; nothing but rounding is left.
    assert one.families["translation"].magnitudes == (4.0, 8.0, 12.0)
    for by_family in one.residuals.values():
      assert by_family["translation"].best.max() < 1e-4
      assert all((r.coverage == 1).all() for r in by_family.values())
  after, before = (
    one.residuals["block 2"]["rotation"].aligned for one in audits.values()
  )
  assert (after != before).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["STN-C0", "STN-C1", "STN-SL1", "DEF1"])
def test_features_are_those_that_the_network_passes_on(name):
  """Where the transformer is the identity, with its batch norm."""
  settings = dataclasses.replace(TOY, network=name, batch_norm=True)
  network = building.build_network(settings, building.find(settings))
  rng = np.random.default_rng(0)
  images = rng.normal(size=(3, 28, 28, 1)).astype(np.float32)
  for _ in range(3):
    network(5 * images + 3, train=True)  # statistics of their own
  deepest = [*network.features(images).values()][-1]
  logits = network.head(deepest)
  np.testing.assert_allclose(logits, network(images).logits, rtol=1e-4)


@pytest.mark.slow
def test_fields_of_the_network_are_what_a_probe_finds():
  network = building.build_network(TOY, building.find(TOY))
  images = np.random.default_rng(0).normal(size=(2, 60, 60, 1))
  probed = alignability.probe(network.features, images.astype(np.float32))
  assert probed == network.geometry()


@pytest.mark.slow
def test_group_convolutions_are_audited_with_permuted_channels(tmp_path):
  settings = dataclasses.replace(TOY, network="GCNN")
  with toy_sets.loaded():
    loop.train(settings, (0,), str(tmp_path), devices=jax.devices()[:1])
    run = Run(str(tmp_path), settings)
    found = auditing.audit(run, count=4, steps=0)
  assert sorted(found) == sorted(
    [
      *auditing.STATES,
      *(state + auditing.PERMUTED for state in auditing.STATES),
    ]
  )
  for state in auditing.STATES:
    plain, permuted = found[state], found[state + auditing.PERMUTED]
    for layer in ("block 1", "block 2"):
      after, before = (
        one.residuals[layer]["rotation"].aligned for one in (permuted, plain)
      )
      assert after[-1].max() < 1e-4 < before[-1].min()  # by 90 degrees
  finished.write_audits(run.path, found)
  report.write(str(tmp_path))
  text = (run.path.parent / "report" / "report.md").read_text()
  assert "| block 2, untrained, permuted |" in text
  assert '"Permuted": each warp also shifts' in text


@pytest.mark.slow
def test_audits_are_kept_and_reported(audits, workdir):
  run = Run(workdir, TOY)
  assert finished.read_audits(run.path) == {}
  finished.write_audits(run.path, audits)
  kept = finished.read_audits(run.path)
  for state, one in audits.items():
    assert kept[state].geometry == one.geometry
    for layer, by_family in one.residuals.items():
      for family, residuals in by_family.items():
        again = kept[state].residuals[layer][family]
        for value, expected in zip(again, residuals, strict=True):
          np.testing.assert_allclose(value, expected, atol=1e-5)
  report.write(workdir)
  text = (run.path.parent / "report" / "report.md").read_text()
  (row,) = re.findall(r"^\| block 1, trained \| (.+) \|$", text, re.M)
  profile = audits["trained"].profile("best")
  for cell, shares in zip(row.split(" | "), profile.values(), strict=True):
    assert float(cell.split(" / ")[1]) == pytest.approx(100 * shares[1], abs=1)
  for damaged in ("{", "[]", '{"trained": 3}'):
    (run.path / "audit.json").write_text(damaged)
    with pytest.raises(RunError, match="cannot read"):
      finished.read_audits(run.path)
  finished.write_audits(run.path, audits)


@pytest.mark.slow
def test_the_script(workdir, capsys):
  flags = ["audit", "--images=4", "--steps=2", f"--workdir={workdir}"]
  script = scripts.Script("tests.toy_sets", *flags, env={})
  code, out, err = scripts.finish(script)
  assert code == 0, err
  assert re.search(r"trained, rotation undone: input \d+ %, block 1 \d+ %", out)
  assert "report: " in out


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--only=STN"], "holds no finished run that matches 'STN'"),
    (["--only=("], "--only='(' is not a valid reg"),
    (["--images=1"], "--images=1: 1 is not integer >= 2"),
    (["--method=nearest"], "nearest"),
  ],
)
@pytest.mark.slow
def test_mistakes(flags, message, workdir):
  result = scripts.run("audit", *flags, f"--workdir={workdir}")
  assert result.returncode != 0
  assert "Traceback" not in result.stderr
  assert message in result.stderr + result.stdout
