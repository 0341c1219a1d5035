"""Images warped while training, in a report."""

import dataclasses

import numpy as np
import pytest

from experiments.reporting import report
from stnjax.training.run_folder import Run
from tests import toy_sets

NETWORKS = ("STN-C0", "STN-C1", "STN-DL1", "STN-SL1", "DEF0")


def pages(workdir, networks, kept):
  """report.md and report.html of finished runs, some with images kept."""
  for network in networks:
    settings = dataclasses.replace(toy_sets.SETTINGS, network=network)
    run = Run(str(workdir), settings)
    run.start(toy_sets.task_of(settings))
    for epoch in (1, 3) if network in kept else ():
      run.keep_images(epoch, np.zeros((10, 28, 28, 1), np.uint8))
    toy_sets.finish(run)
  page = report.write(str(workdir))
  return (page.parent / "report.md").read_text(), page.read_text()


def test_runs_without_images_have_no_figure(tmp_path):
  for page in pages(tmp_path, ["STN-C0"], []):
    assert "Warps while training" not in page


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 5])
def test_images_of_many_networks_are_folded_away(count, tmp_path):
  networks = NETWORKS[:count]
  text, page = pages(tmp_path, networks, networks)
  assert "![Warps while training" in text
  before, _ = page.split('<figure><img alt="Warps while training')
  heading = "<summary>Warps while training</summary>\n"
  assert before.endswith(heading) == (count == 5)


def test_older_runs_are_left_out_of_the_figure(tmp_path):
  text, _ = pages(tmp_path, ["STN-C0", "STN-SL1"], ["STN-SL1"])
  assert "![Warps while training" in text
