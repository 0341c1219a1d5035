"""The plan for a GPU: its clock, parity of warps, kernels of a trace."""

import json
import re
import sys

import numpy as np
import pytest

from experiments.bench import kernels, parity, plan
from tests import scripts


def part(name, *programs, minutes=1.0):
  commands = [[sys.executable, "-c", program] for program in programs]
  return plan.Part(name=name, minutes=minutes, commands=commands)


def test_parts_run_in_order_side_by_side(tmp_path):
  first, second = tmp_path / "first", tmp_path / "second"
  # Each waits for the other's file: one after the other they would not end.
  program = (
    "import pathlib, sys, time\n"
    "pathlib.Path({!r}).touch()\n"
    "while not pathlib.Path({!r}).exists(): time.sleep(0.01)"
  )
  programs = [
    program.format(str(a), str(b))
    for a, b in ((first, second), (second, first))
  ]
  outcomes = plan.run([part("a", *programs), part("b", "1 / 0")], 1.0)
  assert [o["name"] for o in outcomes] == ["a", "b"]
  assert [o["status"] for o in outcomes] == [["done", "done"], ["failed"]]


def test_what_takes_too_long_is_asked_to_end(tmp_path, monkeypatch):
  monkeypatch.setattr(plan, "_GRACE", 2.0)
  written = tmp_path / "written"
  wait = "while :; do sleep 0.05; done"
  polite = f"trap 'touch {written}; exit' TERM; {wait}"
  stubborn = f"trap '' TERM; {wait}"
  slow = plan.Part(
    name="a",
    minutes=5 / 60,
    commands=[["sh", "-c", polite], ["sh", "-c", stubborn]],
  )
  parts = [slow, part("b", "1")]
  outcomes = plan.run(parts, 6 / 60)
  assert [o["status"] for o in outcomes] == [2 * ["stopped"], ["not started"]]
  assert written.exists()
  assert outcomes[0]["seconds"] < 20


def test_an_interrupted_plan_leaves_nothing_running(monkeypatch):
  def interrupt(process, seconds):
    raise KeyboardInterrupt

  started = []
  real = plan.subprocess.Popen

  def popen(*args, **kwargs):
    started.append(real(*args, **kwargs))
    return started[-1]

  monkeypatch.setattr(plan.subprocess, "Popen", popen)
  waits = iter([interrupt])
  wait = plan._wait
  monkeypatch.setattr(plan, "_wait", lambda *args: next(waits, wait)(*args))
  slow = plan.Part(name="a", minutes=1.0, commands=[["sleep", "60"]])
  with pytest.raises(KeyboardInterrupt):
    plan.run([slow], 1.0)
  assert [process.poll() is not None for process in started] == [True]


def test_a_wrong_gradient_is_a_failure():
  case = {"axes": 2, "method": "linear", "padding": "zeros", "dtype": "float32"}
  assert case in parity.cases()
  expected = parity.in_torch(case)
  ours = parity.here(case)
  row = {**case, "reference": "torch", **parity.errors(ours, expected)}
  assert parity.failed([row]) == []
  ours["theta"] = 1.01 * ours["theta"]
  row |= parity.errors(ours, expected)
  (message,) = parity.failed([row])
  assert "2-D linear zeros float32 against torch: theta 0.01" in message
  row["values"] = np.nan
  assert len(parity.failed([row])) == 2


def test_every_case_has_one_reference():
  names = [parity.has_torch(**case) for case in parity.cases()]
  assert any(names) and not all(names)
  known = {"axes": 3, "padding": "border", "dtype": "float32"}
  assert parity.has_torch(method="linear", **known)
  assert not parity.has_torch(method="cubic", **known)


def test_kernels_of_a_trace_by_their_time():
  def named(kind, name, **place):
    return {"ph": "M", "name": kind, "args": {"name": name}, **place}

  def ran(name, dur, pid, tid):
    return {"ph": "X", "name": name, "dur": dur, "pid": pid, "tid": tid}

  events = [
    named("process_name", "/device:GPU:0", pid=1),
    named("process_name", "/host:CPU", pid=2),
    named("thread_name", "Stream #13(Compute)", pid=1, tid=3),
    named("thread_name", "XLA Ops", pid=1, tid=4),
    named("thread_name", "Stream of a host", pid=2, tid=3),
    ran("small", 1.0, 1, 3),
    ran("large", 2.0, 1, 3),
    ran("small", 1.0, 1, 3),
    ran("large", 4.0, 1, 3),
    ran("an operation, not a kernel", 50.0, 1, 4),
    ran("python", 99.0, 2, 3),
  ]
  assert kernels.shares(events) == [("large", 0.75), ("small", 0.25)]


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--parts=training,speed", "--parts='speed' is unknown; accepted: parity"),
    ("--parts=runs,runs", "--parts must differ"),
    ("--seeds=a", "--seeds must be whole numbers"),
    ("--epochs=0", "lower_bound|positive|at least|>= 1"),
  ],
)
@pytest.mark.slow
def test_wrong_flags(flag, message, tmp_path):
  done = scripts.run("gpu_plan", flag, f"--output={tmp_path}/plan")
  assert done.returncode != 0
  assert re.search(message, done.stderr), done.stderr


@pytest.mark.slow
def test_rehearsal(tmp_path):
  done = scripts.run(
    "gpu_plan",
    "--tiny",
    "--minutes=9",
    "--seeds=0,1",
    "--parts=sampling,training,runs",
    f"--output={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  outcomes = json.loads((tmp_path / "plan.json").read_text())
  assert [outcome["status"] for outcome in outcomes] == [
    ["done"],
    ["done"],
    ["done", "done"],
  ]
  for name in ("sampling/bench_sampling.md", "training/bench_training.json"):
    assert (tmp_path / name).stat().st_size
  assert len(list(tmp_path.glob("runs/*/DONE"))) == 4
