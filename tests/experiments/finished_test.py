"""Damaged runs: each is left out and named, and costs no other run anything."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from experiments import claims, prediction
from experiments.lib import loading, loop, planning, running
from experiments.lib.jobs import Job
from experiments.reporting import (
  auditing,
  correlations,
  finished,
  groups,
  page,
  report,
  verdicts,
)
from stnjax import alignability
from stnjax.files import RunError
from stnjax.training import description
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets

TOY = dataclasses.replace(toy_sets.SETTINGS, network="STN-C0")
CNN = dataclasses.replace(TOY, network="CNN")


def audits():
  """An audit, made up, of two layers on three images."""
  rng = np.random.default_rng(0)
  families = {
    name: alignability.ImageTransforms(None, (1.0, 2.0), "px")
    for name in ("rotation", "shear")
  }
  geometry = {
    layer: alignability.Geometry((0.0, 0.0), (1.0, 1.0), (2.0, 2.0))
    for layer in ("input", "block 1")
  }
  residuals = {
    layer: {
      name: alignability.Residuals(*rng.random((4, 2, 3)), rng.random(2))
      for name in families
    }
    for layer in geometry
  }
  return {"trained": alignability.Audit(families, geometry, residuals)}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
  """Pictures are not drawn, which takes most of the time."""
  monkeypatch.setattr(page, "png", lambda figure: b"a picture")


@pytest.fixture
def workdir(tmp_path):
  """Two finished runs, of which one will be damaged, in an odd folder."""
  folder = tmp_path / "a[1-3]*?"
  for settings in (TOY, CNN):
    run = Run(str(folder), settings)
    toy_sets.finish(run, error=0.125)
    finished.write_audits(run.path, audits())
  return folder


def change(path, edit):
  """Has a JSON file changed by a function."""
  values = json.loads(path.read_text())
  path.write_text(json.dumps(edit(values) or values))


def change_arrays(path, **changes):
  """Has arrays of a file changed by functions; None drops one."""
  with np.load(path) as kept:
    arrays = {name: kept[name] for name in kept}
  for name, edit in changes.items():
    array = arrays.pop(name)
    if edit:
      arrays[name] = edit(array)
  packed = io.BytesIO()
  np.savez_compressed(packed, **arrays)
  path.write_bytes(packed.getvalue())


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


ANY = {
  "missing": pathlib.Path.unlink,
  "empty": lambda path: path.write_bytes(b""),
  "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
  "flipped": flip,
  "binary": lambda path: path.write_bytes(bytes(range(256))),
  "list": lambda path: path.write_text("[1, 2]\n"),
  "number": lambda path: path.write_text("3\n"),
  "object": lambda path: path.write_text('{"a": {}}\n'),
  "deep": lambda path: path.write_text("[" * 100000 + "\n"),
}
NAMES = ("config.json", "metrics.jsonl", "evaluation.npz", "results.json")


def assert_only_one_is_read(workdir, capsys, name):
  found, left_out = finished.read(workdir)
  assert [run.settings.network for run in found] == ["CNN"]
  (one,) = left_out
  assert TOY.name in one.name and name in one.damage
  finished.announce(left_out)
  (told,) = capsys.readouterr().err.splitlines()
  assert told.startswith(f"left out: {TOY.name}") and name in told


@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_costs_no_other_run(name, with_sums, workdir, capsys):
  """Also of older versions, which wrote no checksums, but for flipped bits."""
  path = workdir / TOY.name / name
  whole = path.read_bytes()
  if not with_sums:
    (workdir / TOY.name / "DONE").write_text("")
  assert len(finished.read(workdir)[0]) == 2
  for kind, damage in ANY.items():
    if kind == "flipped" and not with_sums and name != "evaluation.npz":
      continue
    damage(path)
    assert_only_one_is_read(workdir, capsys, name)
    path.write_bytes(whole)
  assert len(finished.read(workdir)[0]) == 2


@pytest.mark.parametrize("kind", [*ANY])
def test_a_damaged_audit_is_named(kind, workdir, capsys):
  path = workdir / TOY.name / "audit.json"
  if kind in ("missing", "object"):  # as if there were none; two layers less
    change(path, lambda values: values["audits"]["trained"].pop("geometry"))
  else:
    ANY[kind](path)
  assert_only_one_is_read(workdir, capsys, "audit.json")


@pytest.mark.parametrize("kind", ["flipped", "cut", "list", "binary"])
def test_damaged_checksums_are_named(kind, workdir, capsys):
  ANY[kind](workdir / TOY.name / "DONE")
  assert_only_one_is_read(workdir, capsys, "DONE")


@pytest.mark.parametrize(
  "edit",
  [
    lambda values: values.pop("error"),
    lambda values: values.update(error="0.5"),
    lambda values: values.update(error=1.5),
    lambda values: values.update(error=float("nan")),
    lambda values: values.update(error=0.25),  # of other predictions
    lambda values: values.update(hardware=None),
    lambda values: values.update(parameters=3),
    lambda values: values["parameters"].update(total=[1]),
    lambda values: values.update(seconds_per_epoch=True),
    lambda values: values.update(peak_memory_mb="many"),
    lambda values: values.pop("alignment"),
    lambda values: values.update(alignment=[]),
    lambda values: values["alignment"].update(scale_x={}),
    lambda values: values["alignment"]["rotation"].update(std="1"),
    lambda values: values["alignment"]["rotation"].update(by_class=[1.0]),
    lambda values: values["alignment"]["rotation"].update(by_class=[[1.0]] * 9),
    lambda values: [values],
  ],
)
def test_results_of_another_form(edit, workdir, capsys):
  (workdir / TOY.name / "DONE").write_text("")
  change(workdir / TOY.name / "results.json", edit)
  assert_only_one_is_read(workdir, capsys, "results.json")


@pytest.mark.parametrize(
  "changes",
  [
    {"label": None},
    {"before": None},
    {"true_rotation": None},
    {"label": lambda x: x[:-1]},
    {"label": lambda x: x.astype(np.float32)},
    {"label": lambda x: x + 1},
    {"predicted": lambda x: x[0]},
    {"predicted": lambda x: x.astype(str)},
    {"pose": lambda x: x[..., :2]},
    {"pose": lambda x: np.where(x == 1, np.nan, x)},
    {"pose": lambda x: x.astype(np.complex64)},
    {"true_rotation": lambda x: x[..., None]},
    {"true_rotation": lambda x: x + np.inf},
    {"predicted_rotation": None},
    {"predicted_rotation": lambda x: x[:, :-1]},
    {"before": lambda x: x[..., 0]},
    {"after": lambda x: x[:, :3]},
    {"after": lambda x: x[..., :0]},
    {"after": lambda x: x.astype(np.float32)},
    {"after": lambda x: np.zeros((4, 10, 28, 9999, 1), np.uint8)},
    {
      "before": lambda x: np.zeros((1, 9999, 28, 28, 1), np.uint8),
      "after": lambda x: np.zeros((1, 9999, 28, 28, 1), np.uint8),
    },
  ],
)
def test_arrays_of_another_form(changes, workdir, capsys):
  (workdir / TOY.name / "DONE").write_text("")
  change_arrays(workdir / TOY.name / "evaluation.npz", **changes)
  assert_only_one_is_read(workdir, capsys, "evaluation.npz")


@pytest.mark.parametrize(
  "lines",
  [
    lambda lines: lines[1:],
    lambda lines: lines[:-1],
    lambda lines: [lines[0], *lines],
    lambda lines: lines[::-1],
    lambda lines: [line | {"error": "0"} for line in lines],
    lambda lines: [line | {"alignment": {}} for line in lines],
    lambda lines: [line | {"alignment": {"rotation": []}} for line in lines],
    lambda lines: [{k: line[k] for k in ("epoch", "step")} for line in lines],
    lambda lines: [line | {"step": 1.5} for line in lines],
    lambda lines: [[], *lines],
  ],
)
def test_metrics_of_another_form(lines, workdir, capsys):
  (workdir / TOY.name / "DONE").write_text("")
  path = workdir / TOY.name / "metrics.jsonl"
  found = lines([json.loads(line) for line in path.read_text().splitlines()])
  path.write_text("".join(json.dumps(line) + "\n" for line in found))
  assert_only_one_is_read(workdir, capsys, "metrics.jsonl")


@pytest.mark.parametrize(
  "name, value",
  [
    ("epochs", 3.0),
    ("epochs", "3"),
    ("seed", True),
    ("seed", 1),  # of another run
    ("dropout", "yes"),
    ("network", 7),
    ("dataset", ["mnist"]),
    ("more_iterations", "12"),
    ("more_iterations", [1.5]),
    ("width", None),
    ("colour", 1),
  ],
)
def test_settings_of_another_form(name, value, workdir, capsys):
  (workdir / TOY.name / "DONE").write_text("")
  path = workdir / TOY.name / "config.json"
  change(path, lambda values: values.update({name: value}))
  assert_only_one_is_read(workdir, capsys, "config.json")


@pytest.mark.parametrize(
  "task",
  [
    None,
    [],
    {"num_classes": 0},
    {"heads": "two"},
    {"image_shape": [28, 28]},
    {"class_names": ["only one"]},
    {"axes": {"rotation": {"unit": "deg"}}},
    {"axes": {"rotation": {"unit": "deg", "period": -1}}},
    {"axes": {}},  # which the results are about
  ],
)
def test_tasks_of_another_form(task, workdir, capsys):
  (workdir / TOY.name / "DONE").write_text("")

  def edit(values):
    fields = isinstance(task, dict)
    values["task"] = {**values["task"], **task} if fields else task

  change(workdir / TOY.name / "config.json", edit)
  name = "metrics.jsonl" if task == {"axes": {}} else "config.json"
  assert_only_one_is_read(workdir, capsys, name)


def test_reports_and_claims_name_what_they_leave_out(workdir, capsys):
  seeds = [dataclasses.replace(TOY, seed=seed) for seed in range(1, 4)]
  for settings, name in zip(seeds, NAMES[1:], strict=True):
    toy_sets.finish(Run(str(workdir), settings), error=0.125)
    (workdir / settings.name / name).write_text("[]")
  page = report.write(f"{workdir}/../{workdir.name}/")
  err = capsys.readouterr().err
  text = (workdir / "report" / "report.md").read_text()
  assert "| STN-C0 |" in text and "## Left out" in text
  claims.write(str(workdir))
  judged = (workdir / "claims.md").read_text()
  for settings, name in zip(seeds, NAMES[1:], strict=True):
    for told in (err, text, page.read_text(), judged):
      assert settings.name in told and name in told
  assert text.count("Damaged:") == 3
  kept = (workdir / "report" / "results.json").read_text()
  json.loads(kept, parse_constant=pytest.fail)


@pytest.mark.parametrize(
  "write", [report.write, claims.write, prediction.write]
)
def test_where_all_are_damaged_the_error_names_them(write, workdir):
  for settings in (TOY, CNN):
    (workdir / settings.name / "results.json").unlink()
  with pytest.raises(
    RunError, match="holds no finished run; damaged: "
  ) as told:
    write(str(workdir))
  assert f"{TOY.name}/results.json is missing" in str(told.value)
  assert "\n" not in str(told.value)


def test_an_old_report_that_is_damaged_costs_no_run(workdir):
  folder = workdir.parent / "kept"
  folder.mkdir()
  without = '[{"settings": {}, "task": {}, "results": {}}]'
  for name, text in (("a", "{"), ("b", without)):
    (folder / name).mkdir()
    (folder / name / "results.json").write_text(text)
  report.write(str(workdir))
  results = (workdir / "report" / "results.json").read_text()
  (folder / "c").mkdir()
  (folder / "c" / "results.json").write_text(results)
  runs, left_out = finished.read_all(epath.Path(folder))
  assert sorted(run.settings.network for run in runs) == ["CNN", "STN-C0"]
  assert len(left_out) == 2
  assert all("results.json" in item.damage for item in left_out)


def test_audits_come_back_and_predict(workdir):
  kept = finished.read_audits(workdir / CNN.name)["trained"]
  for layer, by_family in audits()["trained"].residuals.items():
    for name, residuals in by_family.items():
      for value, expected in zip(kept.residuals[layer][name], residuals):
        np.testing.assert_allclose(value, expected, atol=1e-5)
  results = verdicts.results_of(groups.group(finished.read(workdir)[0]))
  audit = correlations.PREDICTORS[0]
  assert [p.network for p in correlations.points(results, audit)] == ["STN-C0"]


@pytest.mark.slow
def test_numbers_that_are_not_known_are_reported_as_such(workdir):
  """A pose that cannot be inverted has no alignment; files hold null."""
  measured = {"std": np.nan, "none": 50.0, "slope": np.nan}
  aligned = {"rotation": {**measured, "by_class": [np.nan] * 10}}
  other = dataclasses.replace(TOY, network="STN-SL1")
  run = Run(str(workdir), other)
  toy_sets.finish(run, error=0.125, alignment=aligned)
  text = (run.path / "results.json").read_text()
  found = json.loads(text, parse_constant=pytest.fail)
  assert found["alignment"]["rotation"]["std"] is None
  assert np.isnan(run.results()["alignment"]["rotation"]["std"])
  report.write(str(workdir))
  claims.write(str(workdir))
  text = (workdir / "report" / "report.md").read_text()
  assert "nan" not in text.split("![")[0]
  (row,) = [r for r in text.splitlines() if r.startswith("| STN-SL1 | 9 ")]
  assert "| – |" in row


@pytest.fixture
def trained(monkeypatch):
  """Has runs finished without training."""

  class Job:
    def __init__(self, members, *_):
      self.members = members

    def train(self, signals):
      for run in self.members:
        toy_sets.finish(run)
      return {run.settings.seed: run.results() for run in self.members}

  monkeypatch.setattr(loop, "TrainingJob", Job)
  monkeypatch.setattr(loading, "load", lambda *_: (None, (), ()))


@pytest.mark.usefixtures("trained")
def test_a_damaged_run_is_named_by_train_and_the_others_go_on(workdir):
  for name in ("results.json", "config.json"):
    (workdir / TOY.name / name).write_text("{}")
    with pytest.raises(RunError, match=f"{name}.*delete") as caught:
      loop.train(TOY, (0, 1), str(workdir), load=lambda settings: None)
    assert "\n" not in str(caught.value)
    other = dataclasses.replace(TOY, seed=1)
    assert Run(str(workdir), other).results()["error"] == 0.25


def blocked(name):
  """Damage: a folder in place of a file, or the other way round."""

  def damage(folder):
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.write_text("x") if name in ("checkpoints", "") else path.mkdir()

  return damage


UNFINISHED = {
  "config.json is missing": lambda folder: (folder / "config.json").unlink(),
  "Not a directory": blocked(""),
  "config.json: Is a directory": blocked("config.json"),
  "checkpoints: Not a directory": blocked("checkpoints"),
  "FAILED: Is a directory": blocked("FAILED"),
  "lock: Is a directory": blocked("lock"),
}


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("told", [*UNFINISHED])
def test_a_damaged_unfinished_run_costs_a_sweep_no_other(
  told, tmp_path, capsys
):
  run = Run(str(tmp_path), TOY)
  run.start(toy_sets.task_of(TOY))
  (run.path / "metrics.jsonl").write_text("")
  UNFINISHED[told](run.path)
  jobs = [Job(TOY, (0, 1)), Job(CNN, (0,))]
  (error,) = running.run_all(jobs, str(tmp_path), [jax.devices()[:1]])
  assert f"{run.path}" in str(error) and told in str(error)
  assert "; delete " in str(error)
  for settings in (dataclasses.replace(TOY, seed=1), CNN):
    assert Run(str(tmp_path), settings).done
  if "lock" in told:  # which a look does not need
    return
  capsys.readouterr()
  with pytest.raises(RunError, match=f"damaged.*{TOY.name}$"):
    planning.print_plan(jobs, str(tmp_path))
  rows = capsys.readouterr().out.splitlines()
  assert [row.split()[0] for row in rows[:3]] == [
    settings.name for job in jobs for settings in job.members()
  ]
  assert "damaged: " in rows[0] and told in rows[0]
  assert "  done  " in rows[1] and "  done  " in rows[2]


def test_a_dry_run_looks_into_finished_runs(workdir, capsys):
  jobs = [Job(TOY, (0,)), Job(CNN, (0,))]
  (workdir / TOY.name / "results.json").write_text("{}")
  with pytest.raises(RunError, match=TOY.name):
    planning.print_plan(jobs, str(workdir))
  first, second = capsys.readouterr().out.splitlines()[:2]
  assert "results.json is damaged" in first and "  done  " in second


def test_a_dry_run_checks_the_data_before_it_prints(tmp_path, capsys):
  large = dataclasses.replace(TOY, batch_size=10**6)
  with pytest.raises(ValueError, match="batch_size"):
    planning.print_plan([Job(large, (0,))], str(tmp_path))
  assert not capsys.readouterr().out


def test_runs_on_other_classes_share_a_table(workdir, capsys):
  """Test sets may differ: the columns are classes, and a dash is none."""
  other = dataclasses.replace(TOY, network="STN-SL1")
  for settings in (dataclasses.replace(TOY, seed=1), other):
    run = Run(str(workdir), settings)
    measured = {"std": 1.0, "none": 50.0, "slope": -1.0}
    aligned = {"rotation": {**measured, "by_class": [5.0] * 9}}
    toy_sets.finish(run, error=0.125, alignment=aligned)
    (run.path / "DONE").write_text("")
    change_arrays(
      run.path / "evaluation.npz",  # class 3 becomes 4
      label=lambda x: np.where(x == 3, 4, x),
      predicted=lambda x: np.where(x == 3, 4, x),
    )
    with np.load(run.path / "evaluation.npz") as kept:
      wrong = {"error": float(np.mean(kept["predicted"][0] != kept["label"]))}
    change(run.path / "results.json", wrong.__ror__)
  report.write(str(workdir))
  assert not capsys.readouterr().err
  rows = (workdir / "report" / "report.md").read_text().splitlines()
  cells = [row.split(" | ") for row in rows if row.count(" | ") == 10]
  (head,) = [row for row in cells if row[0] == "| network"]
  assert head[1:] == [*map(str, range(9)), "9 |"]
  means = {row[0]: row[1:] for row in cells}
  assert means["| STN-C0"] == ["15.00"] * 3 + ["25.00"] + ["15.00"] * 5 + [
    "15.00 |"
  ]
  assert means["| STN-SL1"] == ["5.00"] * 3 + ["–"] + ["5.00"] * 5 + ["5.00 |"]


@pytest.mark.slow
def test_reports_need_no_registered_objects(tmp_path, monkeypatch):
  """Data set, perturbation and classes are known from the folder alone."""
  monkeypatch.undo()  # with pictures
  axes = {
    "bend": description.AxisDescription("bend", "1/m"),
    "hue": description.AxisDescription("hue", "turns", 1.0),
  }
  names = ("oak", "elm", "ash")
  task = description.TaskDescription(
    (20, 30, 3), 3, 1, names, axes, "my leaves, wind"
  )
  for network in ("CNN", "STN-C0", "STN-SL1"):
    settings = dataclasses.replace(
      TOY, network=network, dataset="my_leaves", perturbation="wind",
      backbone="my_net", image_size=30, eval_passes=2,
    )  # fmt: skip
    toy_sets.finish(Run(str(tmp_path), settings), residual=0.5, task=task)
  report.write(str(tmp_path))
  text = (tmp_path / "report" / "report.md").read_text()
  assert "## My leaves, wind" in text
  tables = [line for line in text.splitlines() if line.startswith("| network ")]
  assert "(1/m)" in tables[0] and "(turns)" in tables[0]
  assert tables[1:] == ["| network | oak | elm | ash |"] * 2
  assert (tmp_path / "report" / "bend_1.png").stat().st_size > 5000
  claims.write(str(tmp_path))
  assert "My leaves, wind" in (tmp_path / "claims.md").read_text()


def test_audits_leave_out_damaged_runs(workdir, capsys):
  (workdir / TOY.name / "config.json").write_text("{")
  (run,) = auditing.finished_runs(str(workdir), "")
  assert run.settings == CNN
  assert f"left out: {TOY.name}" in capsys.readouterr().err


def places(tmp_path):
  """Workdirs that cannot be used, and what the error names."""
  (tmp_path / "file").write_text("")
  return {
    "http://host/runs": "accepted: a local folder, or gs://",
    "": "accepted: a local folder, or gs://",
    f"{tmp_path}/file": f"{tmp_path}/file",
    f"{tmp_path}/none": f"{tmp_path}/none holds no finished run",
  }


@pytest.mark.parametrize(
  "use",
  [
    report.write,
    claims.write,
    prediction.write,
    lambda workdir: auditing.finished_runs(workdir, ""),
  ],
)
def test_a_workdir_of_another_kind_is_named(use, tmp_path):
  for workdir, told in places(tmp_path).items():
    with pytest.raises((RunError, ValueError), match=re.escape(told)):
      use(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "claims", "audit", "prediction"])
def test_scripts_tell_a_workdir_of_another_kind_in_one_line(name, tmp_path):
  for workdir, told in places(tmp_path).items():
    result = scripts.run(name, f"--workdir={workdir}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert told in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
  "write, name",
  [
    (report.write, "report/report.html"),
    (claims.write, "claims.json"),
    *(
      pytest.param(write, name, marks=pytest.mark.slow)
      for write, name in [
        (report.write, "report/report.md"),
        (report.write, "report/results.json"),
        (report.write, "report/curves_1.png"),
        (claims.write, "claims.md"),
      ]
    ),
  ],
)
def test_a_full_disk_is_named_and_leaves_the_old_file(write, name, workdir):
  (workdir / "report").mkdir()
  path, partial = workdir / name, workdir / f"{name}.partial"
  path.write_text("old")
  partial.symlink_to("/dev/full")
  with pytest.raises(RunError) as caught:
    write(str(workdir))
  assert f"cannot write {path}" in str(caught.value)
  assert "No space left" in str(caught.value)
  assert path.read_text() == "old"
