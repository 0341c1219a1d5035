"""Verdicts on made-up runs, and intervals against their formulas."""

import dataclasses
import json
import pathlib

from absl.testing import absltest, parameterized
from etils import epath
import numpy as np
from scipy import stats

from experiments import claims, paper, report
from experiments.reporting import finished as finished_runs
from stnjax.training import runs
from tests import toy_sets


def finished(network, seed, error, left=1.0, **settings):
  """A finished run, made up."""
  alignment = {"alignment": {"rotation": {"std": 50.0 * left, "none": 50.0}}}
  return report.Finished(
    runs.Settings(network=network, seed=seed, **settings),
    {"error": error / 100, **alignment},
    [],
    None,
  )


def judge(errors, lefts=None, **settings):
  """Verdicts by statement, for networks with these values of their seeds."""
  lefts = lefts or {}
  made = [
    finished(
      name,
      seed,
      error,
      lefts[name][seed] if name in lefts else 1.0,
      **settings,
    )
    for name, values in errors.items()
    for seed, error in enumerate(values)
  ]
  groups = [claims.Group(*group) for group in report.groups(made)]
  return {item.claim.statement: item for item in claims.judge(groups)}


def find(judged, words):
  (item,) = [item for text, item in judged.items() if words in text]
  return item


LOW, HIGH = [4.0, 4.1, 4.2, 3.9], [8.0, 8.2, 7.9, 8.1]


class VerdictTest(parameterized.TestCase):
  @parameterized.parameters(
    (LOW, HIGH, claims.HOLDS),
    (HIGH, LOW, claims.FAILS),
    (LOW, LOW, claims.OPEN),
    (LOW[:2], HIGH[:2], claims.OPEN),  # too few seeds
  )
  def test_errors_of_features_and_input(self, plain, deep, expected):
    judged = judge({"STN-C0": plain, "STN-C1": deep})
    item = find(judged, "err more")
    self.assertEqual(item.verdict, expected)
    self.assertLen(item.comparisons, 1)
    self.assertEqual(item.comparisons[0].sides["STN-C0"].mean, np.mean(plain))

  @parameterized.parameters(
    ([0.1, 0.2, 0.15], claims.HOLDS),
    ([0.9, 0.8, 0.85], claims.FAILS),
    ([0.1, 0.9, 0.5], claims.OPEN),
  )
  def test_alignment_of_the_input(self, left, expected):
    judged = judge({"STN-C0": [5.0] * 3}, {"STN-C0": left})
    self.assertEqual(find(judged, "one common pose").verdict, expected)

  def test_can_needs_one_network_that_does(self):
    judged = judge(
      {"STN-C0": [5.0] * 3, "STN-SL1": [5.0] * 3},
      {"STN-C0": [0.9, 0.91, 0.92], "STN-SL1": [0.1, 0.11, 0.12]},
    )
    item = find(judged, "one common pose")
    self.assertEqual(item.verdict, claims.HOLDS)
    self.assertCountEqual(
      [c.verdict for c in item.comparisons], [claims.HOLDS, claims.FAILS]
    )

  def test_one_comparison_against_a_claim_is_enough(self):
    judged = judge(
      {"STN-C0": HIGH, "STN-DL1": LOW, "STN-SL1": [9.9, 9.8, 10.0, 9.9]}
    )
    self.assertEqual(find(judged, "Deeper features").verdict, claims.FAILS)

  def test_nothing_to_compare_is_not_enough(self):
    for item in judge({"CNN": LOW}).values():
      self.assertEqual(item.verdict, claims.OPEN)

  def test_too_few_seeds_say_nothing(self):
    settings = {"dataset": "cifar10", "perturbation": "rotation"}
    few = [finished(name, 0, 5.0, **settings) for name in ("STN-C0", "STN-C1")]
    made = [
      finished(name, seed, error)
      for name, errors in (("STN-C0", LOW), ("STN-C1", HIGH))
      for seed, error in enumerate(errors)
    ]
    groups = [claims.Group(*group) for group in report.groups(made + few)]
    judged = claims.judge(groups)
    (item,) = [item for item in judged if "err more" in item.claim.statement]
    self.assertEqual(item.verdict, claims.HOLDS)
    self.assertLen(item.comparisons, 2)
    (row,) = [r for r in claims.verdicts(judged).rows if "err more" in r[0]]
    self.assertEqual(row[1:], [claims.HOLDS, "1", "0", "0", "1"])

  def test_iterations_and_depth(self):
    judged = judge(
      {"STN-C0": HIGH, "STN-C0x2": [6.0, 6.1, 6.2, 5.9], "STN-SL1": LOW}
    )
    self.assertEqual(find(judged, "Iterations help").verdict, claims.HOLDS)
    self.assertEqual(find(judged, "replace").verdict, claims.HOLDS)

  def test_depth_of_own_and_shared_layers(self):
    judged = judge(
      {"STN-DL3": LOW, "STN-SL3": HIGH, "STN-DL6": HIGH, "STN-SL6": LOW},
      dataset="street_numbers",
      perturbation="none",
    )
    item = find(judged, "Own copies")
    self.assertEqual(item.verdict, claims.HOLDS)
    self.assertIn("STN-SL6 < STN-DL6", item.comparisons[0].what)

  def test_shared_layers_on_hard_data(self):
    """Against the CNN, C0, and C and DL at the same depth."""
    hard = {"dataset": "street_numbers", "perturbation": "none"}
    errors = dict.fromkeys(("CNN", "STN-C0", "STN-C3", "STN-DL3"), HIGH)
    judged = judge({**errors, "STN-SL3": LOW, "STN-DL6": LOW}, **hard)
    item = find(judged, "Shared layers win")
    self.assertEqual(item.verdict, claims.HOLDS)
    self.assertLen(item.comparisons, 4)
    judged = judge({**errors, "STN-SL3": HIGH, "STN-C0": LOW}, **hard)
    self.assertEqual(find(judged, "Shared layers").verdict, claims.FAILS)

  def test_a_network_is_not_compared_with_itself(self):
    """At depth 0, C, DL and SL are one network."""
    judged = judge({"STN-C0": LOW, "STN-SL0": LOW})
    self.assertEmpty(find(judged, "Deeper features").comparisons)

  def test_translations_are_told_apart(self):
    left = {"STN-C0": [0.1] * 3, "STN-C1": [0.2, 0.21, 0.22]}
    judged = judge(
      {name: [5.0] * 3 for name in left}, left, perturbation="translation"
    )
    self.assertEqual(find(judged, "Translations").verdict, claims.HOLDS)
    self.assertEmpty(find(judged, "orientation or scale").comparisons)

  def test_deformed_convolutions_are_features_that_do_not_align(self):
    left = {
      "STN-C0": [0.1, 0.12, 0.11],
      "STN-UCN1": [0.9, 0.91, 0.92],
      "DEF1": [0.9, 0.91, 0.92],
      "DEF0": [0.9, 0.91, 0.92],  # no features
    }
    judged = judge({name: [5.0] * 3 for name in left}, left)
    item = find(judged, "as such")
    self.assertEqual(item.verdict, claims.HOLDS)
    self.assertLen(item.comparisons, 2)
    self.assertLen(find(judged, "one common pose").comparisons, 1)
    for words in ("orientation or scale", "err more", "Iterations help"):
      self.assertEmpty(find(judged, words).comparisons)

  def test_runs_that_differ_in_more_are_not_compared(self):
    made = [finished("STN-C0", s, e) for s, e in enumerate(LOW)]
    made += [finished("STN-C1", s, e, epochs=7) for s, e in enumerate(HIGH)]
    groups = [claims.Group(*group) for group in report.groups(made)]
    self.assertLen(groups, 2)
    for item in claims.judge(groups):
      self.assertNotEqual(item.verdict, claims.HOLDS)


class OverviewTest(absltest.TestCase):
  def test_networks_by_groups_with_enough_seeds(self):
    made = [finished("STN-C0", s, e, left=0.4) for s, e in enumerate(LOW)]
    made += [finished("CNN", 0, 9.0), finished("STN-SL1", 0, 5.0, epochs=7)]
    groups = [claims.Group(*group) for group in report.groups(made)]
    table = claims.overview(groups)
    self.assertEqual(
      table.heading, ["network", "mnist_subset, rotation, affine"]
    )
    self.assertEqual(
      table.rows, [["CNN", "9.0 (100)"], ["STN-C0", "4.0 ± 0.1 (40)"]]
    )


class ReadTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def write(self, folder, network="STN-C0", error=5.0, **settings):
    settings = runs.Settings(network=network, **settings)
    run = runs.Run(str(self.root / folder), settings)
    toy_sets.finish(run, error / 100)

  def test_groups_of_one_name_are_told_apart(self):
    self.write("short", epochs=3)
    self.write("long", epochs=9)
    self.write("other", perturbation="none")
    found = {group.where for group in claims.read(str(self.root))[0]}
    base = "mnist_subset, rotation, affine, epochs"
    self.assertEqual(
      found, {f"{base} 3", f"{base} 9", "mnist_subset, none, affine"}
    )

  def test_tuning_runs_are_left_alone_and_unfinished_ones_named(self):
    self.write("a")
    self.write("a", network="CNN", holdout=True)
    runs.Run(str(self.root / "a"), runs.Settings(seed=3)).start()
    failed = runs.Run(str(self.root / "a"), runs.Settings(seed=4))
    failed.start()
    failed.fail("because")
    (group,), left = claims.read(str(self.root))
    self.assertEqual(list(group.members), ["STN-C0"])
    self.assertLen(left, 2)
    self.assertRegex(" ".join(map(str, left)), r"seed_4 \(failed\)")
    judged = claims.judge([group])
    text = report.markdown(claims.TITLE, claims.sections([], judged, left))
    self.assertIn("## Left out", text)

  def test_runs_win_over_an_old_report(self):
    """Also where some that it tells of are gone."""
    for seed in range(2):
      self.write("", seed=seed, error=5.0)
    report_folder = self.root / "report"
    report_folder.mkdir()
    old = [
      {
        "settings": dataclasses.asdict(runs.Settings("STN-C0", seed=seed)),
        "results": {"error": 0.9},
      }
      for seed in range(4)
    ]
    (report_folder / "results.json").write_text(json.dumps(old))
    (group,), _ = claims.read(str(self.root))
    self.assertEqual(group.error("STN-C0"), [5.0, 5.0])

  def test_every_preset_can_be_grouped(self):
    for name, make in paper.PRESETS.items():
      for size in paper.SIZES:
        made = [
          report.Finished(settings, {"error": 0.1}, [], None)
          for settings in make().settings(size)
        ]
        ((_, members),) = report.groups(made)
        self.assertCountEqual(members, make().networks, name)


class IntervalTest(absltest.TestCase):
  def test_interval_is_students(self):
    values = np.array([1.0, 4.0, 2.5, 3.0])
    found = claims.interval(values)
    reach = 3.182446305 * values.std(ddof=1) / 2  # t of 3 degrees of freedom
    np.testing.assert_allclose(
      found[:3], [2.625, 2.625 - reach, 2.625 + reach], rtol=1e-8
    )

  def test_difference_is_welchs(self):
    a, b = np.array([1.0, 2.0, 4.0]), np.array([7.0, 7.5, 9.0, 8.0])
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 4
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 3)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    gap = a.mean() - b.mean()
    np.testing.assert_allclose(
      claims.welch(a, b)[:3], [gap, gap - reach, gap + reach]
    )

  def test_values_without_spread(self):
    self.assertEqual(claims.welch([1.0, 1.0], [2.0, 2.0])[:3], (-1, -1, -1))
    self.assertEqual(claims.interval([3.0]).seeds, 1)


class FilesTest(absltest.TestCase):
  def write_run(self, root, name, seed, error):
    settings = runs.Settings(network=name, seed=seed, epochs=1, eval_passes=1)
    toy_sets.finish(runs.Run(root, settings), error / 100, left=0.02)

  def test_runs_of_a_folder_and_those_below_it_count_once(self):
    root = self.create_tempdir().full_path
    for seed in range(3):
      for folder in (root, f"{root}/again"):
        self.write_run(folder, "STN-C0", seed, LOW[seed])
      self.write_run(f"{root}/again", "STN-C1", seed, HIGH[seed])
    judged = {item.claim.statement: item for item in claims.write(root)}
    comparison = find(judged, "err more").comparisons[0]
    self.assertEqual(comparison.sides["STN-C0"].seeds, 3)
    self.assertEqual(comparison.verdict, claims.HOLDS)
    with open(f"{root}/claims.json") as file:
      kept = json.load(file, parse_constant=self.fail)
    self.assertLen(kept, len(claims.CLAIMS))
    text = pathlib.Path(root, "claims.md").read_text()
    self.assertIn("| holds |", text)
    self.assertIn("| STN-C0 | 4.1 ± 0.1 (2) |", text)

  def test_results_that_a_report_left_are_judged_alike(self):
    root = self.create_tempdir().full_path
    for seed in range(3):
      self.write_run(f"{root}/runs", "STN-C0", seed, LOW[seed])
      self.write_run(f"{root}/runs", "STN-C1", seed, HIGH[seed])
    expected = claims.write(f"{root}/runs")
    kept = pathlib.Path(root, "kept", "some_preset")
    kept.mkdir(parents=True)
    values = [
      {"settings": dataclasses.asdict(run.settings), "results": run.results}
      for run in finished_runs.read(epath.Path(root) / "runs")[0]
    ]
    (kept / "results.json").write_text(json.dumps(values))
    self.assertEqual(
      [item.comparisons for item in claims.write(f"{root}/kept")],
      [item.comparisons for item in expected],
    )
    # Beside the runs themselves they count once.
    (pathlib.Path(root) / "runs" / "results.json").write_text(
      json.dumps(values)
    )
    self.assertEqual(
      [item.comparisons for item in claims.write(f"{root}/runs")],
      [item.comparisons for item in expected],
    )

  def test_results_that_cannot_be_read(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    (root / "results.json").write_text('[{"settings": {"color": 1}}]')
    with self.assertRaisesRegex(runs.RunError, "cannot read .*results.json"):
      claims.read(str(root))
    self.write_run(str(root), "STN-C0", 0, 5.0)
    (_,), (left,) = claims.read(str(root))
    self.assertIn("results.json", left.damage)

  def test_no_runs(self):
    with self.assertRaisesRegex(runs.RunError, "holds no finished run"):
      claims.read(self.create_tempdir().full_path)


if __name__ == "__main__":
  absltest.main()
