"""A line per epoch, with the time that is left."""

from collections.abc import Sequence
import threading
import time

from experiments.lib import measuring
from experiments.lib.jobs import Job
from stnjax import data


class Progress:
  """Prints a line per epoch, with the time that is left; for all jobs."""

  def __init__(self, jobs: Sequence[Job]):
    self._left = sum(job.settings.epochs * len(job.seeds) for job in jobs)
    self._trained = 0  # by this process; both in epochs of one run
    self._start = time.monotonic()
    self._lock = threading.Lock()

  def epoch(
    self,
    label: str,
    axes: Sequence[data.Axis],
    epochs: int,
    seeds: Sequence[int],
    lines: Sequence[dict],
  ) -> None:
    """Prints the line of an epoch that some seeds have trained."""
    self.skip(len(seeds))
    with self._lock:
      self._trained += len(seeds)
      elapsed = time.monotonic() - self._start
      left = elapsed / self._trained * self._left
      print(
        f"{label} {measuring.describe(lines, axes, epochs)}"
        f"  [{clock(elapsed)} so far, about {clock(left)} left]",
        flush=True,
      )

  def skip(self, epochs: int) -> None:
    """Counts epochs that were trained before."""
    with self._lock:
      self._left = max(0, self._left - epochs)


def clock(seconds: float) -> str:
  """Seconds as h:mm:ss or m:ss."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"
