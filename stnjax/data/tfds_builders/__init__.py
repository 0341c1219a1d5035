"""TFDS builders of data sets from files that a user has downloaded."""

from stnjax import extras

extras.needs("tensorflow_datasets", "array_record", "PIL", extra="experiments")
