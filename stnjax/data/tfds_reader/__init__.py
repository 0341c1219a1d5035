"""Prepared TFDS directories, read without TensorFlow."""
