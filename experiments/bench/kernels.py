"""The kernels that a GPU spends its time in, from JAX's profiler."""

import collections
from collections.abc import Callable
import gzip
import json
import pathlib
import tempfile
from typing import Any

import jax


def slowest(call: Callable[[], Any], count: int = 3) -> list[tuple[str, float]]:
  """Profiles a call.

  Args:
    call: Function without arguments that returns when its result is there.
    count: Number of kernels to return.

  Returns:
    Names of the kernels that take most time, and their shares of the time of
    all kernels; none on CPU.
  """
  if jax.default_backend() == "cpu":
    return []
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      call()
    (path,) = pathlib.Path(folder).glob("**/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  return shares(events)[:count]


def shares(events: list[dict[str, Any]]) -> list[tuple[str, float]]:
  """Names of the kernels of a trace, slowest first, and shares of their time.

  Args:
    events: Events in Chrome's trace format.
  """
  devices, streams = set(), set()
  for event in events:
    name = event.get("args", {}).get("name", "")
    if event.get("name") == "process_name" and "/device:GPU" in name:
      devices.add(event["pid"])
    if event.get("name") == "thread_name" and name.startswith("Stream"):
      streams.add((event["pid"], event["tid"]))
  times: collections.Counter[str] = collections.Counter()
  for event in events:
    thread = event.get("pid"), event.get("tid")
    if event.get("ph") == "X" and thread in streams and thread[0] in devices:
      times[event["name"]] += event["dur"]
  whole = sum(times.values())
  return [(name, time / whole) for name, time in times.most_common()]
