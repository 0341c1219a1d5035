"""Draws the figure of antialiasing; `python docs/figures/antialiasing.py`."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
from matplotlib import pyplot as plt
import numpy as np

import stnjax
from stnjax import transforms

matplotlib.use("Agg")

SIDE = 128  # of the image
FACTORS = np.array([1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0])  # of shrinking
SHOWN = 4.0
ANGLE = 0.35  # radians
SAMPLES = 16  # of the reference, along a side of a pixel
TEXTURE_SEED = 0
PADDING = "reflection"  # the textures have no edge


def rings(points: np.ndarray) -> np.ndarray:
  """Rings that become finer outwards, at normalised coordinates."""
  square = (points**2).sum(-1)
  return 0.5 + 0.5 * np.cos(0.5 * np.pi * SIDE * square / 2)


def lattice(side: int) -> np.ndarray:
  """Normalised coordinates of pixels, `[side, side, 2]`."""
  centres = (np.arange(side) + 0.5) * 2 / side - 1
  return np.stack(np.meshgrid(centres, centres), axis=-1)


def mean_of_pixels(values: np.ndarray, factor: int) -> np.ndarray:
  """Means of squares of `factor` pixels along a side."""
  height, width = (size // factor for size in values.shape)
  return values.reshape(height, factor, width, factor).mean((1, 3))


def turned(angle: float) -> jax.Array:
  return transforms.rotation(jnp.float32(angle))


def shrunk(image: np.ndarray, angle: float, side: int, antialias: bool):
  """The whole image, turned, at a smaller size."""
  result = stnjax.warp(
    jnp.asarray(image, jnp.float32)[..., None],
    turned(angle),
    output_shape=(side, side),
    antialias=antialias,
    padding=PADDING,
  )
  return np.asarray(result[..., 0])


def draw_images(axes: list[plt.Axes]) -> None:
  """The rings, shrunk without and with antialiasing, and as they should be."""
  side = round(SIDE / SHOWN)
  points = lattice(side * SAMPLES) @ np.asarray(turned(ANGLE))[:, :2].T
  panels = {
    f"image, {SIDE} x {SIDE}": rings(lattice(SIDE)),
    f"warp to {side} x {side}": shrunk(
      rings(lattice(SIDE)), ANGLE, side, antialias=False
    ),
    "antialias=True": shrunk(rings(lattice(SIDE)), ANGLE, side, antialias=True),
    "mean over each pixel": mean_of_pixels(rings(points), SAMPLES),
  }
  for ax, (title, image) in zip(axes, panels.items(), strict=True):
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def errors(antialias: bool) -> list[float]:
  """Root mean squared errors against the mean over each pixel, by factor."""
  found = []
  for factor in FACTORS:
    side = round(SIDE / factor)
    points = lattice(side * SAMPLES) @ np.asarray(turned(ANGLE))[:, :2].T
    inside = mean_of_pixels((np.abs(points).max(-1) < 1).astype(float), SAMPLES)
    result = shrunk(rings(lattice(SIDE)), ANGLE, side, antialias)
    error = result - mean_of_pixels(rings(points), SAMPLES)
    found.append(float(np.sqrt((error[inside == 1] ** 2).mean())))
  return found


def losses(angles: np.ndarray, antialias: bool) -> np.ndarray:
  """Mean squared differences to the same noise turned by ANGLE."""
  noise = np.random.default_rng(TEXTURE_SEED).uniform(size=(SIDE, SIDE))
  side = round(SIDE / SHOWN)
  target = shrunk(noise, ANGLE, side, antialias)
  return np.array(
    [
      ((shrunk(noise, angle, side, antialias) - target) ** 2).mean()
      for angle in angles
    ]
  )


def draw_errors(ax: plt.Axes) -> None:
  for antialias, style in ((False, "C3o-"), (True, "C0s-")):
    values = errors(antialias)
    print(f"antialias={antialias}:", [round(v, 3) for v in values])
    ax.plot(FACTORS, values, style, ms=4, label=f"antialias={antialias}")
  ax.set(xlabel="factor of shrinking", ylabel="RMS error", ylim=(0, None))
  ax.legend(frameon=False)
  ax.grid(alpha=0.3)


def draw_losses(ax: plt.Axes) -> None:
  degrees = np.linspace(-10, 10, 201)
  for antialias, colour in ((False, "C3"), (True, "C0")):
    values = losses(ANGLE + np.radians(degrees), antialias)
    minima = (values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])
    print(f"antialias={antialias}: {minima.sum()} minima")
    ax.plot(
      degrees,
      values / values.max(),
      color=colour,
      lw=1,
      label=f"antialias={antialias}",
    )
  ax.set(xlabel="rotation from the best (deg)", ylabel="loss / largest loss")
  ax.grid(alpha=0.3)


def main() -> None:
  figure = plt.figure(figsize=(10, 5.6), layout="constrained")
  above, below = figure.subfigures(2, 1)
  draw_images(list(above.subplots(1, 4)))
  by_factor, by_angle = below.subplots(1, 2)
  draw_errors(by_factor)
  draw_losses(by_angle)
  path = pathlib.Path(__file__).with_suffix(".png")
  figure.savefig(path, dpi=110)


if __name__ == "__main__":
  main()
