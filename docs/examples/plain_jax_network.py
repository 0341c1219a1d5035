"""A spatial transformer in plain JAX: python plain_jax_network.py."""

import jax
import jax.numpy as jnp

import stnjax
from stnjax import transforms


def bars(key, count=64):
  """Vertical and horizontal bars, shifted at random: classes 0 and 1."""
  label_key, shift_key = jax.random.split(key)
  labels = jax.random.bernoulli(label_key, shape=(count,)).astype(int)
  bar = jnp.zeros((16, 16)).at[7:9, 3:13].set(1)
  images = jnp.where(labels[:, None, None], bar, bar.T)[..., None]
  shifts = jax.random.uniform(shift_key, (count, 2), minval=-0.4, maxval=0.4)
  return stnjax.warp(images, transforms.translation(shifts)), labels


def init(key):
  hidden_key, dense_key = jax.random.split(key)
  return {
    "hidden": jax.random.normal(hidden_key, (256, 20)) / 16,
    "theta": jnp.zeros((20, 6)),  # zero parameters are the identity
    "dense": jax.random.normal(dense_key, (256, 2)) / 16,
  }


def classify(params, images):
  hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["hidden"])
  theta = transforms.matrix(hidden @ params["theta"], "affine")  # [B, 2, 3]
  warped = stnjax.warp(images, theta, padding="border")
  return warped.reshape(len(images), -1) @ params["dense"]


@jax.jit
def train_step(params, images, labels):
  def loss_fn(params):
    log_probabilities = jax.nn.log_softmax(classify(params, images))
    return -jnp.take_along_axis(log_probabilities, labels[:, None], 1).mean()

  loss, gradient = jax.value_and_grad(loss_fn)(params)
  return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), loss


images, labels = bars(jax.random.key(0))
params, losses = init(jax.random.key(1)), []
for _ in range(100):
  params, loss = train_step(params, images, labels)
  losses.append(loss)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.5 * losses[0]
