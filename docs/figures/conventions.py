"""Draws the figure of the conventions; `python docs/figures/conventions.py`."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import jax.numpy as jnp
from matplotlib import pyplot as plt
import numpy as np

import stnjax
from stnjax import transforms

SIDE = 4
ANGLE = np.radians(20)


def draw_axes(ax: plt.Axes) -> None:
  """An image of 4 x 4 pixels with both kinds of coordinates."""
  for line in np.linspace(-1, 1, SIDE + 1):
    ax.plot([line, line], [-1, 1], color="0.75", lw=0.8)
    ax.plot([-1, 1], [line, line], color="0.75", lw=0.8)
  centres = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
  x, y = np.meshgrid(centres, centres)
  ax.plot(x, y, "o", color="C0", ms=4)
  for index, centre in enumerate(centres):
    ax.text(centre, -1.12, str(index), ha="center", color="C0")
    ax.text(-1.12, centre, str(index), va="center", ha="right", color="C0")
  for edge in (-1, 1):
    ax.text(edge, 1.12, f"{edge}", ha="center", va="top", color="C3")
    ax.text(1.08, edge, f"{edge}", va="center", color="C3")
  arrow = {"arrowstyle": "->", "color": "C3", "shrinkA": 0}
  ax.annotate("x", (0.7, 0), color="C3", va="center")
  ax.annotate("", (0.65, 0), (0, 0), arrowprops=arrow)
  ax.annotate("y", (0, 0.8), color="C3", ha="center")
  ax.annotate("", (0, 0.65), (0, 0), arrowprops=arrow)
  ax.set_title("pixels (blue), normalised (red)", fontsize=10, pad=10)


def draw_images(output: plt.Axes, source: plt.Axes) -> None:
  """A warped image, and where its pixels are read in the original."""
  rows, columns = np.mgrid[:64, :64]
  image = ((abs(rows - 32) < 18) & (abs(columns - 32) < 6)).astype(np.float32)
  image += 0.7 * ((abs(rows - 18) < 4) & (abs(columns - 32) < 16))
  image = jnp.asarray(image.clip(0, 1))[..., None]
  theta = transforms.rotation(ANGLE)
  extent = (-1, 1, 1, -1)
  output.imshow(stnjax.warp(image, theta)[..., 0], cmap="gray_r", extent=extent)
  source.imshow(image[..., 0], cmap="gray_r", extent=extent)
  grid = np.asarray(stnjax.affine_grid(theta, (7, 7)))
  lattice = np.asarray(stnjax.affine_grid(transforms.identity(), (7, 7)))
  for ax, points in ((output, lattice), (source, grid)):
    ax.plot(points[..., 0], points[..., 1], "o", color="C0", ms=3)
    ax.plot(*points[1, 5], "o", color="C3", ms=7)
    ax.plot([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], color="0.75", lw=0.8)
    ax.set(xlim=(-1.4, 1.4), ylim=(1.4, -1.4))
  output.set_title("output of warp(image, rotation(20°))", fontsize=10, pad=10)
  source.set_title("image, and where it is read", fontsize=10, pad=10)


def main() -> None:
  figure, (axes, output, source) = plt.subplots(
    1, 3, figsize=(10, 3.5), layout="constrained"
  )
  draw_axes(axes)
  draw_images(output, source)
  axes.set(xlim=(-1.35, 1.35), ylim=(1.35, -1.35))
  for ax in (axes, output, source):
    ax.set_aspect("equal")
    ax.axis("off")
  path = pathlib.Path(__file__).with_suffix(".png")
  figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
  main()
