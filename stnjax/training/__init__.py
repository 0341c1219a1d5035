"""Training: pure steps, programs on devices, run folders."""

from stnjax import extras

extras.needs("flax", "optax", "orbax", extra="experiments")
