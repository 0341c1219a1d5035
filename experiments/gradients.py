"""Measures the gradient norm of each layer, with and without theta's part.

  python -m experiments.gradients --workdir=runs --steps=0,100

The gradient of the training loss is split into the part that comes through the
output of localisation, along any path, and the rest, for layers that
localisation shares with the classifier too. Of every finished run, trained, and
after each of --steps, which are trained again from the start. Writes
gradients.json to each run's folder, and gradients.md with figures to the
workdir. About 10 seconds per state and network of the digits on 2 CPU cores.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection
from experiments.reporting import analysing, gradient_norms, page
from stnjax import files


def flagged() -> tuple[int, ...]:
  """The steps of training after which to measure.

  Raises:
    ValueError: For steps that cannot be used.
  """
  steps = cli.integers("steps", _STEPS.value)
  if any(step < 0 for step in steps):
    raise ValueError(f"--steps must be at least 0, got {min(steps)}")
  return steps


def main() -> None:
  steps, load = flagged(), loading.once(_DATA_DIR.value)
  name = gradient_norms.NAME
  analysed = analysing.analyse(
    cli.WORKDIR.value,
    _ONLY.value,
    name,
    lambda run: gradient_norms.measure(run, load, _IMAGES.value, steps),
  )

  def parts(group, number):
    content = [gradient_norms.EXPLANATION]
    for state in analysed.of(group.runs)[0]["states"]:
      file = f"{name}_{number}_{state.replace(' ', '_')}.png"
      caption = gradient_norms.CAPTION.format(state=state)
      picture = page.Picture(analysed.root / file, caption)
      figure = gradient_norms.figure(analysed, group, state)
      files.write_whole(picture.path, page.png(figure))
      table = gradient_norms.table(analysed, group, state)
      content += [f"State: {state}.", picture, table]
    return content

  path = analysing.write_page(analysed, name, gradient_norms.TITLE, parts)
  print(f"written: {path}")
  running.raise_if_any(analysed.errors)


if __name__ == "__main__":
  _STEPS = flags.DEFINE_list(
    "steps",
    ["0"],
    "Steps of training after which the gradient is measured, besides the"
    " trained network; 0 is the network before training.",
  )
  _IMAGES = flags.DEFINE_integer(
    "images", 256, "Number of training images in the batch.", lower_bound=1
  )
  _ONLY, _DATA_DIR = selection.define_finished()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main, check=flagged)
