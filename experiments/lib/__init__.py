"""Shared parts of the scripts.

Importing them registers the data sets, perturbations and backbones of the
paper.
"""

from stnjax import paper as paper
