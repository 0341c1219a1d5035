"""A transformer in a backbone of one's own: python own_backbone.py."""

from flax import nnx
import jax
import jax.numpy as jnp
import optax

import stnjax
from stnjax import nn, placement, transforms


def bars(key, count=64):
  """Vertical and horizontal bars, shifted at random: classes 0 and 1."""
  label_key, shift_key = jax.random.split(key)
  labels = jax.random.bernoulli(label_key, shape=(count,)).astype(int)
  bar = jnp.zeros((16, 16)).at[7:9, 3:13].set(1)
  images = jnp.where(labels[:, None, None], bar, bar.T)[..., None]
  shifts = jax.random.uniform(shift_key, (count, 2), minval=-0.4, maxval=0.4)
  return stnjax.warp(images, transforms.translation(shifts)), labels


class Residual(nnx.Module):
  def __init__(self, channels, rngs):
    self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(channels, rngs=rngs)

  def __call__(self, x):
    return x + nnx.relu(self.norm(self.conv(x)))


def localiser(shape, image_shape, num_params, *, rngs):
  return nn.LocalisationNet(
    shape, num_params, convs=((8, 3),), dense=(16,), rngs=rngs
  )


@placement.BACKBONES.register("two_stages")
def two_stages(task, *, rngs, width=1.0):
  """Any NNX modules or functions, from [B, H, W, C] to [B, h, w, F]."""
  filters = round(16 * width)
  stages = [
    nnx.Conv(task.image_shape[-1], filters, (3, 3), strides=2, rngs=rngs),
    Residual(filters, rngs),
  ]
  head = placement.MeanHead(filters, task.num_classes, rngs=rngs)
  return placement.Backbone(stages, head, localiser=localiser)


@nnx.jit
def train_step(network, optimiser, images, labels, key):
  def loss_fn(network):
    keys = jax.random.split(key, len(images))  # for dropout
    logits = network(images, train=True, keys=keys).logits
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(logits, labels).mean()

  loss, gradient = nnx.value_and_grad(loss_fn)(network)
  optimiser.update(network, gradient)
  return loss


task = placement.Task(image_shape=(16, 16, 1), num_classes=2)
rngs = nnx.Rngs(0)
network = placement.place(
  two_stages(task, rngs=rngs), "STN-SL2", task, rngs=rngs
)
optimiser = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)
images, labels = bars(jax.random.key(0))
losses = [
  train_step(network, optimiser, images, labels, jax.random.key(step))
  for step in range(40)
]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.5 * losses[0]
output = network(images)
print(output.logits.shape, output.pose.shape, output.warped.shape)
