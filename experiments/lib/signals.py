"""SIGTERM and Ctrl-C: noted, and acted on where states are saved."""

import signal


class Interrupted(Exception):
  """A signal asked a script to stop; its work is saved."""

  def __init__(self, message: str, signal: int):
    super().__init__(message)
    self.signal = signal


class Signals:
  """Notes SIGTERM and SIGINT, to act on where states are saved."""

  def __init__(self):
    self.received = 0

  def __enter__(self):
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, frame):
    del frame
    self.received = number
