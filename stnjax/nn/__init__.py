"""Spatial transformers as layers: localisation, deformed convolutions."""
