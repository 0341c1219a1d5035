"""Spatial transformers as layers: localisation, deformed convolutions."""

from stnjax import extras

extras.needs("flax", extra="nn")
