"""A spatial transformer in an Equinox network: python equinox_network.py."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

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


class Classifier(eqx.Module):
  localiser: eqx.nn.MLP
  scale: jax.Array
  dense: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key)
    self.localiser = eqx.nn.MLP(16 * 16, 6, 20, 1, key=keys[0])
    self.scale = jnp.zeros(6)  # zero parameters are the identity
    self.dense = eqx.nn.Linear(16 * 16, 2, key=keys[1])

  def __call__(self, image):  # [H, W, C], as Equinox maps over the batch
    parameters = self.scale * self.localiser(image.ravel())
    theta = transforms.matrix(parameters, "affine")  # [2, 3]
    return self.dense(stnjax.warp(image, theta, padding="border").ravel())


@eqx.filter_jit
def train_step(model, state, images, labels):
  def loss_fn(model):
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(jax.vmap(model)(images), labels).mean()

  loss, gradient = eqx.filter_value_and_grad(loss_fn)(model)
  updates, state = optimiser.update(gradient, state)
  return eqx.apply_updates(model, updates), state, loss


model, optimiser = Classifier(jax.random.key(1)), optax.adam(3e-3)
images, labels = bars(jax.random.key(0))
state, losses = optimiser.init(eqx.filter(model, eqx.is_array)), []
for _ in range(40):
  model, state, loss = train_step(model, state, images, labels)
  losses.append(loss)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.5 * losses[0]
