"""A spatial transformer in a Flax Linen network: python linen_network.py."""

from flax import linen
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


class Classifier(linen.Module):
  @linen.compact
  def __call__(self, images):
    x = linen.relu(linen.Conv(8, (3, 3), strides=2)(images))
    x = linen.relu(linen.Dense(20)(x.reshape(len(x), -1)))
    # Zero parameters are the identity: that is where training starts.
    parameters = linen.Dense(6, kernel_init=linen.initializers.zeros_init())(x)
    theta = transforms.matrix(parameters, "affine")  # [B, 2, 3]
    warped = stnjax.warp(images, theta, padding="border")
    return linen.Dense(2)(warped.reshape(len(images), -1))


model = Classifier()
optimiser = optax.adam(3e-3)


@jax.jit
def train_step(params, state, images, labels):
  def loss_fn(params):
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(model.apply(params, images), labels).mean()

  loss, gradient = jax.value_and_grad(loss_fn)(params)
  updates, state = optimiser.update(gradient, state)
  return optax.apply_updates(params, updates), state, loss


images, labels = bars(jax.random.key(0))
params = model.init(jax.random.key(1), images)
state, losses = optimiser.init(params), []
for _ in range(40):
  params, state, loss = train_step(params, state, images, labels)
  losses.append(loss)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.5 * losses[0]
