"""Draws where to look, what to warp, and the residuals of networks.

  python -m experiments.paper --preset=rotation --seeds=0,1,2,3,4
  python -m experiments.audit --workdir=runs/rotation-quick
  python -m experiments.localisability --workdir=runs/rotation-quick
  python -m experiments.guide --workdir=runs/rotation-quick

Writes guide.md and a figure for each axis of the perturbation to the workdir:
what the best warp of each layer undoes, how well the pose is read from each
layer, and the residual of every network.
"""

from absl import flags

from experiments.lib import cli
from experiments.reporting import finished, groups, guide, page
from stnjax import files


def main() -> None:
  root = files.place("workdir", cli.WORKDIR.value)
  runs, left_out = finished.read(root)
  finished.announce(left_out)
  if not runs:
    raise finished.none_in(root, left_out)
  sections = []
  for number, group in enumerate(groups.group(runs), 1):
    parts = []
    for axis in group.axes:
      path = root / f"guide_{number}_{axis}.png"
      figure = guide.figure(group, axis)
      files.write_whole(path, page.png(figure))
      picture = page.Picture(path, guide.CAPTION.format(axis=axis))
      parts += [picture, guide.table(group, axis)]
    if parts:
      sections.append(page.Section(group.title, parts))
  if not sections:
    raise files.RunError(f"{root} holds no network with a measured pose")
  path = root / "guide.md"
  files.write_whole(
    path, page.markdown("Where to look, what to warp", sections)
  )
  print(f"written: {path}")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
