"""A spatial transformer in a Flax NNX network: python nnx_network.py."""

from flax import nnx
import jax
import jax.numpy as jnp
import optax

import stnjax
from stnjax import nn, transforms


def bars(key, count=64):
  """Vertical and horizontal bars, shifted at random: classes 0 and 1."""
  label_key, shift_key = jax.random.split(key)
  labels = jax.random.bernoulli(label_key, shape=(count,)).astype(int)
  bar = jnp.zeros((16, 16)).at[7:9, 3:13].set(1)
  images = jnp.where(labels[:, None, None], bar, bar.T)[..., None]
  shifts = jax.random.uniform(shift_key, (count, 2), minval=-0.4, maxval=0.4)
  return stnjax.warp(images, transforms.translation(shifts)), labels


class Classifier(nnx.Module):
  def __init__(self, rngs):
    localiser = nn.LocalisationNet((16, 16, 1), 6, convs=((8, 3),), rngs=rngs)
    self.transformer = nn.SpatialTransformer(localiser, family="affine")
    self.dense = nnx.Linear(16 * 16, 2, rngs=rngs)

  def __call__(self, images):
    warped, theta = self.transformer(images)  # theta: [B, 2, 3]
    return self.dense(warped.reshape(len(images), -1))


@nnx.jit
def train_step(model, optimiser, images, labels):
  def loss_fn(model):
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(model(images), labels).mean()

  loss, gradient = nnx.value_and_grad(loss_fn)(model)
  optimiser.update(model, gradient)
  return loss


model = Classifier(nnx.Rngs(0))
optimiser = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
images, labels = bars(jax.random.key(0))
losses = [train_step(model, optimiser, images, labels) for _ in range(40)]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.5 * losses[0]
