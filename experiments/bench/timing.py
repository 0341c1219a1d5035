"""Timing of calls, and comparison of times, for benchmarks."""

from collections.abc import Callable, Sequence
import time

from absl import flags
import numpy as np

PAUSE = 0.02
"""Seconds before each turn, until the threads of the previous call stop
spinning."""


def define_rounds(default: int) -> flags.FlagHolder[int]:
  """Defines --rounds."""
  return flags.DEFINE_integer(
    "rounds", default, "Number of times each call is timed.", lower_bound=1
  )


def in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, list]:
  """Times calls in turns.

  Each turn is a pause, a call that wakes up the call's own threads, and a call
  that is timed.

  Args:
    calls: Functions without arguments that return when their result is there.
    rounds: Number of turns of each call. The order is random in each round.

  Returns:
    Seconds of each call in each round.
  """
  rng = np.random.default_rng(0)
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name in rng.permutation(list(calls)):
      time.sleep(PAUSE)
      calls[name]()
      start = time.perf_counter()
      calls[name]()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
  """Median and quartiles of the ratio of times in the same round, as text."""
  low, middle, high = np.percentile(np.divide(theirs, ours), [25, 50, 75])
  return f"{middle:.2f} ({low:.2f} to {high:.2f})"
