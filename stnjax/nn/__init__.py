"""Layers in Flax NNX: spatial transformers, localisation nets, convolutions.

A spatial transformer in a network of your own::

  st = nn.SpatialTransformer(nn.LocalisationNet((28, 28, 1), 6, rngs=rngs))
  warped, theta = st(images)

`deformation`, `convolution`, `initialisers` and `receptive_fields` are modules
of functions, `predictors` one of layers.
"""

from stnjax import extras

extras.needs("flax", extra="nn")

from stnjax.nn import convolution as convolution
from stnjax.nn import deformation as deformation
from stnjax.nn import initialisers as initialisers
from stnjax.nn import predictors as predictors
from stnjax.nn import receptive_fields as receptive_fields
from stnjax.nn.localisation import LocalisationConv as LocalisationConv
from stnjax.nn.localisation import LocalisationNet as LocalisationNet
from stnjax.nn.spatial_transformer import (
  SpatialTransformer as SpatialTransformer,
)
