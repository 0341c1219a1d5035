"""Starts scripts by forking a process that has imported what they import."""

import contextlib
import functools
import gc
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys

import numpy as np

from stnjax.training import config, gallery, records

ROOT = pathlib.Path(__file__).parent.parent


def start(name, *flags, devices=1):
  """Starts a script of `experiments` as its own process."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return Script(f"experiments.{name}", *flags, env={"XLA_FLAGS": count})


def finish(process, timeout=300):
  """Waits for a script; its exit status, and what it wrote."""
  out, err = process.communicate(timeout)
  return process.returncode, out, err


def run(name, *flags):
  """Runs a script of `experiments` to its end, as `subprocess.run` does."""
  code, out, err = finish(start(name, *flags))
  return subprocess.CompletedProcess((name, *flags), code, out, err)


def metrics(workdir, settings):
  """What a run computed, without how long it took."""
  folder = config.folder(str(workdir), settings)
  lines = records.read_metrics(folder)
  results = json.loads((folder / "results.json").read_text())
  for line in (*lines, results):
    del line["seconds"]
  for name in ("seconds_per_epoch", "peak_memory_mb", "seeds_together"):
    del results[name]
  arrays = np.load(folder / "evaluation.npz")
  warped = gallery.read(folder)  # of a network with a transformer
  assert tuple(warped) in ((), gallery.epochs_shown(settings.epochs))
  warped = {f"warped after epoch {k}": images for k, images in warped.items()}
  return lines, results, {**arrays, **warped}


class Script:
  """A process that runs `python -m <module> <arguments>`.

  It ends and can be signalled as any other, and starts JAX's backend itself;
  only its imports were made before.
  """

  def __init__(self, module, *arguments, env):
    self._files = [os.memfd_create(name) for name in ("stdout", "stderr")]
    request = json.dumps([module, arguments, env]).encode()
    self._server, _ = _server()
    socket.send_fds(self._server, [request], self._files)
    self.pid = json.loads(self._server.recv(100))
    self._process = os.pidfd_open(self.pid)
    self.returncode = None

  def poll(self):
    """The exit status, negative for a signal; None while it runs."""
    return self._wait(0)

  def send_signal(self, number):
    signal.pidfd_send_signal(self._process, number)

  def communicate(self, timeout=None):
    """What it wrote to stdout and stderr, once it has ended."""
    if self._wait(timeout) is None:
      self.send_signal(signal.SIGKILL)
      self._wait(None)
      raise TimeoutError(f"{timeout} s were not enough: {self._read()}")
    return self._read()

  def _wait(self, timeout):
    if self.returncode is None:
      if not select.select([self._process], [], [], timeout)[0]:
        return None
      self._server.send(json.dumps(self.pid).encode())
      self.returncode = json.loads(self._server.recv(100))
      os.close(self._process)
    return self.returncode

  def _read(self):
    # Without moving its place in the files: its children may still write.
    return tuple(
      os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
      for file in self._files
    )

  def __del__(self):
    for file in self._files:
      os.close(file)


@functools.cache
def _server():
  """A connection to a process to fork, which ends when this one does."""
  ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  with theirs:
    process = subprocess.Popen(
      [sys.executable, "-m", "tests.scripts", str(theirs.fileno())],
      cwd=ROOT,
      stdin=subprocess.DEVNULL,
      pass_fds=[theirs.fileno()],
    )
  return ours, process


def _serve(connection):
  """Forks, and returns in each child, with the request; else never."""
  while True:
    message, descriptors, *_ = socket.recv_fds(connection, 2**20, 2)
    if not message:
      sys.exit()
    request = json.loads(message)
    if isinstance(request, int):
      status = os.waitpid(request, 0)[1]
      reply = os.waitstatus_to_exitcode(status)
    else:
      reply = os.fork()
      if not reply:
        connection.close()
        for number, descriptor in enumerate(descriptors, 1):
          os.dup2(descriptor, number)
          os.close(descriptor)
        return request
      for descriptor in descriptors:
        os.close(descriptor)
    connection.send(json.dumps(reply).encode())


def _main():
  # Ahead of time, and nothing of it may have started the backend.
  from jax._src import xla_bridge

  from experiments import report, sweep, train  # noqa: F401

  assert not xla_bridge.backends_are_initialized()
  gc.collect()
  gc.freeze()  # what was imported stays shared, and children end sooner
  connection = socket.socket(fileno=int(sys.argv[1]))
  module, arguments, env = _serve(connection)
  os.environ.update(env)
  sys.argv[1:] = arguments
  with contextlib.suppress(KeyError):
    del sys.modules[module]  # to be run afresh
  runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  _main()
