"""Verdicts on made-up runs, and intervals against their formulas."""

import dataclasses
import json
import pathlib
import shutil

from etils import epath
import numpy as np
import pytest
from scipy import stats

from experiments import claims as script
from experiments.reporting import finished, groups, report, verdicts
from stnjax import placement
from stnjax.files import RunError
from stnjax.paper import claims, comparisons, presets
from stnjax.training import description
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import toy_sets
from tests.experiments import made_up
from tests.experiments.made_up import judge, seeds

LOW, HIGH = [4.0, 4.1, 4.2, 3.9], [8.0, 8.2, 7.9, 8.1]


@pytest.mark.parametrize(
  "plain, deep, expected",
  [
    (LOW, HIGH, comparisons.HOLDS),
    (HIGH, LOW, comparisons.FAILS),
    (LOW, LOW, comparisons.OPEN),
    (LOW[:2], HIGH[:2], comparisons.OPEN),  # too few seeds
  ],
)
def test_errors_of_features_and_input(plain, deep, expected):
  judged = judge(*seeds("STN-C0", plain), *seeds("STN-C1", deep))
  item = judged["features_err_more"]
  assert item.verdict == expected
  (comparison,) = item.comparisons
  assert comparison.sides["STN-C0"].mean == np.mean(plain)


@pytest.mark.parametrize(
  "shares, expected",
  [
    ([0.1, 0.2, 0.15], comparisons.HOLDS),
    ([0.9, 0.8, 0.85], comparisons.FAILS),
    ([0.1, 0.9, 0.5], comparisons.OPEN),
  ],
)
def test_alignment_of_the_input(shares, expected):
  judged = judge(*seeds("STN-C0", [5.0] * 3, shares))
  assert judged["input_aligns"].verdict == expected


def test_can_needs_one_network_that_does():
  item = judge(
    *seeds("STN-C0", [5.0] * 3, [0.9, 0.91, 0.92]),
    *seeds("STN-SL1", [5.0] * 3, [0.1, 0.11, 0.12]),
  )["input_aligns"]
  assert item.verdict == comparisons.HOLDS
  found = sorted(c.verdict for c in item.comparisons)
  assert found == sorted([comparisons.HOLDS, comparisons.FAILS])


def test_one_comparison_against_a_claim_is_enough():
  judged = judge(
    *seeds("STN-C0", HIGH),
    *seeds("STN-DL1", LOW),
    *seeds("STN-SL1", [9.9, 9.8, 10.0, 9.9]),
  )
  assert judged["deeper_helps"].verdict == comparisons.FAILS


def test_nothing_to_compare_is_inconclusive():
  judged = judge(*seeds("CNN", LOW))
  assert {item.verdict for item in judged.values()} == {comparisons.OPEN}
  assert claims.judge([])[0].verdict == comparisons.OPEN


def test_comparisons_of_few_seeds_are_counted_and_not_evaluated():
  few = {"dataset": "cifar10", "perturbation": "rotation"}
  runs = seeds("STN-C0", LOW) + seeds("STN-C1", HIGH)
  runs += seeds("STN-C0", [5.0], **few) + seeds("STN-C1", [5.0], **few)
  item = judge(*runs)["features_err_more"]
  assert item.verdict == comparisons.HOLDS
  assert [c.evaluated for c in item.comparisons] == [True, False]
  (row,) = verdicts.verdicts([item]).rows
  assert row[1:] == [comparisons.HOLDS, "1", "0", "0", "1", "0"]


def test_iterations_and_depth():
  judged = judge(
    *seeds("STN-C0", HIGH),
    *seeds("STN-C0x2", [6.0, 6.1, 6.2, 5.9]),
    *seeds("STN-SL1", LOW),
  )
  assert judged["iterations_help"].verdict == comparisons.HOLDS
  assert judged["iterations_replace_nothing"].verdict == comparisons.HOLDS


def test_depth_of_own_and_shared_layers():
  errors = {"STN-DL3": LOW, "STN-SL3": HIGH, "STN-DL6": HIGH, "STN-SL6": LOW}
  runs = [
    run
    for name, values in errors.items()
    for run in seeds(
      name, values, dataset="street_numbers", perturbation="none"
    )
  ]
  judged = judge(*runs)
  stable, best = judged["shared_is_stable"], judged["shared_wins"]
  assert stable.verdict == comparisons.HOLDS
  assert set(stable.comparisons[0].sides) == {"STN-SL6", "STN-DL6"}
  assert [set(c.sides) for c in best.comparisons] == [
    {"STN-SL3", "STN-DL3"}, {"STN-SL6", "STN-DL6"},
  ]  # fmt: skip


def test_warps_of_features_by_perturbation_and_family():
  def verdict_of(name, shares, **settings):
    runs = seeds("STN-C0", [5.0] * 3, [0.1, 0.12, 0.11], **settings)
    runs += seeds("STN-C1", [5.0] * 3, shares, **settings)
    return judge(*runs)[name].verdict

  aligned, not_aligned = [0.1, 0.11, 0.12], [0.9, 0.91, 0.92]
  scaled = {"perturbation": "scale", "family": "scale"}
  moved = {"perturbation": "translation", "family": "translation"}
  similar = {"family": "similarity"}
  of = {"claim": "features_do_not_align", "other": "any_warp"}
  assert verdict_of(of["claim"], not_aligned, **scaled) == comparisons.HOLDS
  assert verdict_of(of["claim"], not_aligned, **moved) == comparisons.OPEN
  assert verdict_of(of["other"], not_aligned, **scaled) == comparisons.OPEN
  assert verdict_of(of["other"], not_aligned, **similar) == comparisons.HOLDS
  name = "features_undo_translation"
  assert verdict_of(name, aligned, **moved) == comparisons.HOLDS
  assert verdict_of(name, not_aligned, **moved) == comparisons.FAILS
  assert verdict_of(name, aligned, **scaled) == comparisons.OPEN


def test_deformed_convolutions_are_features_that_do_not_align():
  shares = {
    "STN-C0": [0.1, 0.12, 0.11],
    "STN-UCN1": [0.9, 0.91, 0.92],
    "DEF1": [0.9, 0.91, 0.92],
    "DEF0": [0.9, 0.91, 0.92],  # no features
  }
  runs = [x for name, s in shares.items() for x in seeds(name, [5.0] * 3, s)]
  judged = judge(*runs)
  assert judged["any_warp"].verdict == comparisons.HOLDS
  assert len(judged["any_warp"].comparisons) == 2
  assert len(judged["input_aligns"].comparisons) == 1
  for name in ("features_do_not_align", "features_err_more", "iterations_help"):
    assert not judged[name].comparisons


def test_runs_that_differ_in_more_are_not_compared():
  runs = seeds("STN-C0", LOW) + seeds("STN-C1", HIGH, epochs=7)
  assert len(made_up.grouped(*runs)) == 2
  assert {item.verdict for item in judge(*runs).values()} == {comparisons.OPEN}


def test_networks_are_shown_by_groups_with_enough_seeds():
  runs = seeds("STN-C0", LOW, [0.4] * 4)
  runs += seeds("CNN", [9.0]) + seeds("STN-SL1", [5.0], epochs=7)
  table = verdicts.overview(made_up.grouped(*runs))
  assert len(table.heading) == 2
  assert table.rows == [["CNN", "9.0"], ["STN-C0", "4.0 ± 0.1 (40)"]]


def test_titles_name_the_task_and_what_tells_groups_apart():
  rotated = {"dataset": "mnist_subset", "perturbation": "rotation"}
  made = [
    Settings(**rotated, family="rotation"),
    Settings(**rotated, family="rotation", batch_norm=True),
    Settings(**rotated, family="rotation", batch_norm=True, epochs=9),
    Settings(**rotated, family="affine"),
    Settings(dataset="leaves", perturbation="wind", family="thin_plate"),
    Settings(dataset="leaves", perturbation="none", family="affine"),
  ]
  digits, leaves = "rotated MNIST (subset)", "leaves"
  tasks = [*[digits] * 4, f"{leaves}, wind", leaves]
  runs = [
    finished.Finished(
      settings, description.TaskDescription((9, 9, 1), 2, title=task), {}
    )
    for settings, task in zip(made, tasks, strict=True)
  ]
  base = "Rotated MNIST (subset)"
  assert [group.title for group in groups.group(runs)] == [
    f"{base}, without batch norm",
    f"{base}, with batch norm, epochs 30",
    f"{base}, with batch norm, epochs 9",
    f"{base}, affine transforms",
    "Leaves, wind, thin plate transforms",
    "Leaves, affine transforms",
  ]


def test_every_preset_is_one_group():
  for name, preset in presets.PRESETS.items():
    for size in presets.SIZES:
      task = description.TaskDescription((9, 9, 1), 2)
      known = [network for network in preset.networks if _parses(network)]
      runs = [
        finished.Finished(Settings(**settings), task, {"error": 0.1})
        for settings in preset.settings(size)
        if settings["network"] in known
      ]
      (group,) = groups.group(runs)
      assert sorted(group.members) == sorted(known), name


def _parses(network):
  """Whether the placement of a network is registered."""
  try:
    placement.parse(network)
  except ValueError:
    return False
  return True


@pytest.fixture
def equivariant():
  """The placement STN-EQ, a made-up one if it is not registered."""
  registry = placement.PLACEMENTS
  missing = "STN-EQ" not in registry
  if missing:

    @placement.register
    class Equivariant(placement.Placement):
      prefix = "STN-EQ"

  yield
  if missing:
    registry._objects.pop("STN-EQ")


FULL = {"perturbation": "full_rotation", "family": "rotation"}


def posed(network, residuals, **settings):
  """Runs with residuals by image, in degrees."""
  return [
    made_up.run(network, seed, 5.0, 0.5, by_image=residual, **settings)
    for seed, residual in enumerate(residuals)
  ]


@pytest.mark.usefixtures("equivariant")
@pytest.mark.parametrize(
  "residuals, expected",
  [
    ([7.0, 8.0, 9.0], comparisons.HOLDS),
    ([15.0, 16.0, 17.0], comparisons.FAILS),  # less, but not a quarter
    ([9.5, 10.0, 11.0], comparisons.OPEN),
    ([7.0, 8.0, None], comparisons.OPEN),
  ],
)
def test_residuals_by_image_of_equivariant_localisers(residuals, expected):
  regressed = posed("STN-SL1", [40.0, 41.0, 42.0], **FULL)
  for family in ("rotation", "similarity", "affine"):
    runs = [*regressed, *posed("STN-EQ0", residuals, **FULL)]
    runs = [
      run._replace(settings=dataclasses.replace(run.settings, family=family))
      for run in runs
    ]
    item = judge(*runs)["one_pose"]
    if family == "affine":  # it is no group that STN-EQ has
      assert not item.comparisons
    else:
      assert item.verdict == expected
      (comparison,) = item.comparisons
      assert comparison.sides["STN-SL1"].mean == pytest.approx(41)


@pytest.mark.usefixtures("equivariant")
@pytest.mark.parametrize(
  "errors, expected",
  [
    ([3.0, 3.1, 3.2, 2.9], comparisons.HOLDS),
    ([3.8, 3.9, 4.0, 3.9], comparisons.FAILS),  # less, but not by a fifth
  ],
)
def test_errors_where_the_whole_group_occurs(errors, expected):
  runs = seeds("STN-C0", HIGH, **FULL) + seeds("STN-SL1", LOW, **FULL)
  runs += seeds("CNN", [1.0] * 4, **FULL)  # no transformer of the paper
  runs += seeds("STN-CAN0", [1.0] * 4, **FULL)
  runs += seeds("STN-EQ0", errors, **FULL)
  item = judge(*runs)["whole_group"]
  assert item.verdict == expected
  (comparison,) = item.comparisons
  np.testing.assert_allclose(
    comparison.differences, np.array(errors) - 0.8 * np.array(LOW)
  )
  part = [
    run._replace(
      settings=dataclasses.replace(run.settings, perturbation="rotation")
    )
    for run in runs
  ]
  assert not judge(*part)["whole_group"].comparisons


@pytest.mark.usefixtures("equivariant")
def test_fewer_training_images():
  few = {**FULL, "train_images": 1000, "epochs": 80}

  def verdict(own_few, own_all, **changes):
    runs = seeds("STN-C0", HIGH, **FULL) + seeds("STN-EQ0", own_all, **FULL)
    noisy = [20.0, 20.5, 19.5, 20.2]
    runs += seeds("STN-C0", noisy, **{**few, **changes})
    runs += seeds("STN-EQ0", own_few, **{**few, **changes})
    return judge(*runs)["fewer_images"]

  less = verdict([6.0, 6.2, 6.1, 6.3], LOW)
  assert less.verdict == comparisons.HOLDS
  level, rise = less.comparisons
  np.testing.assert_allclose(
    level.differences, [-14.0, -14.3, -13.4, -13.9], atol=1e-9
  )
  rises = np.array([2.0, 2.1, 1.9, 2.4]) - [12.0, 12.3, 11.6, 12.1]
  np.testing.assert_allclose(rise.differences, rises, atol=1e-9)
  # As good, but it loses as much; and worse.
  assert verdict([16.0, 16.2, 15.9, 16.3], LOW).verdict != comparisons.HOLDS
  worse = verdict([25.0, 25.2, 25.1, 25.3], LOW)
  assert worse.verdict == comparisons.FAILS
  # Others that differ in more are no training on all images.
  assert not verdict(LOW, LOW, learning_rate=0.5).comparisons


def test_interval_is_students():
  values = np.array([1.0, 4.0, 2.5, 3.0])
  reach = 3.182446305 * values.std(ddof=1) / 2  # t of 3 degrees of freedom
  np.testing.assert_allclose(
    comparisons.interval(values)[:3],
    [2.625, 2.625 - reach, 2.625 + reach],
    1e-8,
  )


def test_paired_t_test_is_scipys():
  a, b = np.array([1.0, 2.0, 4.0, 3.0]), np.array([7.0, 7.5, 9.0, 7.0])
  item = judge(*seeds("STN-C0", a), *seeds("STN-C1", b))["features_err_more"]
  (comparison,) = item.comparisons
  test = stats.ttest_rel(a, b)
  low, high = test.confidence_interval()
  np.testing.assert_allclose(comparison.adjusted, test.pvalue)
  np.testing.assert_allclose(
    comparison.difference[:3], [np.mean(a - b), low, high]
  )


def test_only_common_seeds_are_paired():
  """Unpaired, the spread between seeds would hide the difference."""
  errors = np.array([2.0, 9.0, 5.0, 30.0])
  runs = seeds("STN-C0", errors) + seeds("STN-C1", errors + 1)[1:]
  (comparison,) = judge(*runs)["features_err_more"].comparisons
  assert comparison.difference.seeds == 3
  np.testing.assert_allclose(comparison.differences, [-1, -1, -1])
  assert comparison.verdict == comparisons.HOLDS


def test_holms_adjustment():
  """The example of Holm's step-down procedure, worked out by hand."""
  adjusted = comparisons.holm([0.01, 0.04, 0.03, 0.005])
  np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
  np.testing.assert_allclose(comparisons.holm([0.6, 0.7]), [1, 1])
  assert comparisons.holm([]) == []


def test_many_comparisons_ask_for_more_evidence():
  """Each alone is below 0.05, but not four together."""
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(5)
  noise = (noise - noise.mean()) / noise.std(ddof=1)
  base = np.full(5, 9.0)
  runs = seeds("STN-C0", base)
  for depth in range(1, 5):
    runs += seeds(f"STN-C{depth}", base + noise + 1.35)
  item = judge(*runs)["features_err_more"]
  alone = stats.ttest_1samp(-noise - 1.35, 0).pvalue
  assert alone < comparisons.LEVEL < 4 * alone
  assert {c.verdict for c in item.comparisons} == {comparisons.OPEN}


@pytest.mark.parametrize("effect, needed", [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed(effect, needed):
  """Sample sizes of a two-sided paired t test in Cohen's tables."""
  values = np.array([-1.0, 0.0, 1.0]) + effect
  assert comparisons.seeds_needed(values) == needed
  assert comparisons.seeds_needed(-values) == needed
  assert comparisons.seeds_needed([1.0]) is None
  assert comparisons.seeds_needed([-1.0, 1.0]) > comparisons.MOST_SEEDS


def test_the_best_depth_is_chosen_on_other_seeds():
  """The luck of one seed does not count for that seed."""
  errors = {"STN-SL1": [1.0, 6.0, 6.0], "STN-SL2": [5.0, 5.0, 5.0]}
  runs = [r for name, values in errors.items() for r in seeds(name, values)]
  (group,) = made_up.grouped(*runs, *seeds("STN-C0", [5.5] * 3))
  best, _ = group.best_on_other_seeds([*errors])
  # Without seed 0, SL2 is better; with it, SL1 is.
  assert best == {0: 5.0, 1: 6.0, 2: 6.0}


def test_a_depth_with_few_seeds_does_not_take_away_those_of_others():
  runs = seeds("STN-C0", HIGH) + seeds("STN-SL1", LOW)
  runs += seeds("STN-SL2", [9.0])
  (comparison,) = judge(*runs)["deeper_helps"].comparisons
  assert comparison.verdict == comparisons.HOLDS
  assert comparison.difference.seeds == 4


def test_seeds_that_are_needed_after_the_adjustment():
  """More than were run, wherever the adjustment leaves a comparison open."""
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(5)
  noise = (noise - noise.mean()) / noise.std(ddof=1)
  runs = seeds("STN-C0", np.full(5, 9.0))
  for depth in range(1, 5):
    runs += seeds(f"STN-C{depth}", 9 + noise + 1.35)
  for comparison in judge(*runs)["features_err_more"].comparisons:
    assert comparisons.seeds_needed(comparison.differences) <= 7
    expected = comparisons.seeds_needed(comparison.differences, 0.05 / 4)
    assert comparison.needed == expected > 7


def test_a_seed_that_diverged():
  runs = seeds("STN-C0", [5.0] * 3, [0.1, 0.2, np.nan])
  (group,) = made_up.grouped(*runs)
  assert group.unaligned("STN-C0") == 1
  item = judge(*runs)["input_aligns"]
  text = "\n".join(verdicts.lines([item]))
  assert "not evaluated: a seed is not finite" in text


def test_slopes_with_depth():
  own = {2: [10.0, 10.0, 10.0], 4: [14.0, 15.0, 14.5], 6: [18.0, 20.0, 19.0]}
  shared = {2: [10.0, 10.0, 10.0], 4: [9.0, 10.0, 9.5], 6: [8.0, 10.0, 9.0]}
  runs = []
  for kind, by_depth in (("DL", own), ("SL", shared)):
    for depth, errors in by_depth.items():
      runs += seeds(f"STN-{kind}{depth}", errors)
  deepest, slope = judge(*runs)["shared_is_stable"].comparisons
  assert set(deepest.sides) == {"STN-SL6", "STN-DL6"}
  np.testing.assert_allclose(slope.differences, [-2.5, -2.5, -2.5])
  np.testing.assert_allclose(slope.sides["slope of STN-DL"].mean, 2.25)


def test_iterations_are_compared_at_equal_cost():
  runs = [
    *seeds("STN-SL1", LOW, operations=10.0),
    *seeds("STN-C0x2", HIGH, operations=7.0),
    *seeds("STN-C0x3", HIGH, operations=9.0),
    *seeds("STN-C0x4", HIGH, operations=11.0),
  ]
  (comparison,) = judge(*runs)["iterations_replace_nothing"].comparisons
  assert set(comparison.sides) == {"STN-SL1", "STN-C0x3"}


def test_unaligned_seeds_are_counted():
  runs = seeds("STN-DL1", [9.0] * 3, [0.96, 1.02, 0.5])
  (group,) = made_up.grouped(*runs)
  assert group.unaligned("STN-DL1") == 2
  assert "2 unaligned" in verdicts.overview([group]).rows[0][1]


def test_interval_of_one_seed():
  assert comparisons.interval([3.0]).seeds == 1


def write_run(folder, network="STN-C0", error=5.0, **settings):
  settings = {"epochs": 1, "eval_passes": 1, **settings}
  run = Run(str(folder), Settings(network=network, **settings))
  toy_sets.finish(run, error / 100, residual=0.02)
  return run


def test_validation_runs_do_not_count_and_unfinished_ones_are_named(tmp_path):
  run = write_run(tmp_path / "a")
  write_run(tmp_path / "a", "CNN", use_validation_split=True)
  task = finished.read(epath.Path(tmp_path / "a"))[0][0].task
  for seed in (3, 4):
    other = Run(str(tmp_path / "a"), Settings(seed=seed))
    other.start(task)
  other.fail("because")
  (found,), left_out = finished.read_all(epath.Path(tmp_path))
  assert found.settings == run.settings
  assert len(left_out) == 2
  assert any("seed_4 (failed)" in str(item) for item in left_out)
  script.write(str(tmp_path))
  text = (tmp_path / "claims.md").read_text()
  assert all(item.name in text for item in left_out)


@pytest.mark.slow
def test_runs_win_over_an_outdated_report(tmp_path):
  """Also where some runs of the report are gone."""
  for seed in range(4):
    write_run(tmp_path, seed=seed, error=90.0)
  report.write(str(tmp_path))
  for seed in range(4):
    shutil.rmtree(tmp_path / Settings("STN-C0", seed=seed).name)
  for seed in range(2):
    write_run(tmp_path, seed=seed, error=5.0)
  found, _ = finished.read_all(epath.Path(tmp_path))
  (group,) = made_up.grouped(*found)
  assert group.errors("STN-C0") == {0: 5.0, 1: 5.0}


def test_runs_of_a_folder_and_those_below_it_count_once(tmp_path):
  for seed in range(3):
    for folder in (tmp_path, tmp_path / "again"):
      write_run(folder, "STN-C0", LOW[seed], seed=seed)
    write_run(tmp_path / "again", "STN-C1", HIGH[seed], seed=seed)
  judged = {item.claim.name: item for item in script.write(str(tmp_path))}
  (comparison,) = judged["features_err_more"].comparisons
  assert comparison.sides["STN-C0"].seeds == 3
  assert comparison.verdict == comparisons.HOLDS
  kept = json.loads(
    (tmp_path / "claims.json").read_text(), parse_constant=pytest.fail
  )
  assert [item["verdict"] for item in kept] == [
    item.verdict for item in judged.values()
  ]
  assert "| STN-C0 | 4.1 ± 0.1 (2) |" in (tmp_path / "claims.md").read_text()


@pytest.mark.slow
def test_results_that_a_report_kept_are_judged_alike(tmp_path):
  runs, kept = tmp_path / "runs", tmp_path / "kept"
  for seed in range(3):
    write_run(runs, "STN-C0", LOW[seed], seed=seed)
    write_run(runs, "STN-C1", HIGH[seed], seed=seed)
  expected = [item.comparisons for item in script.write(str(runs))]
  report.write(str(runs))
  text = (runs / "report" / "results.json").read_text()
  (kept / "some_preset").mkdir(parents=True)
  (kept / "some_preset" / "results.json").write_text(text)
  assert [item.comparisons for item in script.write(str(kept))] == expected
  (runs / "results.json").write_text(text)  # counts once beside the runs
  assert [item.comparisons for item in script.write(str(runs))] == expected


def test_results_that_cannot_be_read(tmp_path):
  path = pathlib.Path(tmp_path, "results.json")
  path.write_text('[{"settings": {"color": 1}}]')
  with pytest.raises(RunError, match="cannot read .*results.json"):
    script.write(str(tmp_path))
  write_run(tmp_path)
  (_,), (left_out,) = finished.read_all(epath.Path(tmp_path))
  assert "results.json" in left_out.damage


def test_no_runs(tmp_path):
  with pytest.raises(RunError, match="holds no finished run"):
    script.write(str(tmp_path))
