"""Prepared TFDS directories, read without TensorFlow."""

from stnjax import extras

extras.needs("tensorflow_datasets", "array_record", "PIL", extra="experiments")
