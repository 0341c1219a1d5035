"""What only the paper knows: its classifiers."""

from stnjax import extras

extras.needs("flax", "tensorflow_datasets", extra="experiments")
