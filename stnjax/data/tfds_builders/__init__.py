"""TFDS builders of data sets from files that a user has downloaded."""
