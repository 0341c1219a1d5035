"""Layers in Flax NNX: spatial transformers, localisers, convolutions.

A spatial transformer in a network of your own::

  st = nn.SpatialTransformer(nn.LocalisationNet((28, 28, 1), 6, rngs=rngs))
  warped, theta = st(images)

`EquivariantLocaliser` predicts poses that move as the image does, for families
of rotations, scalings and translations. `PoseSearch` scores copies of the image
at a grid of poses. `LiftingConv` and `GroupConv` are equivariant to rotations.

`canonicalisation`, `deformation`, `convolution`, `initialisers` and
`receptive_fields` are modules of functions, `predictors` one of layers.
"""

from stnjax import extras

extras.needs("flax", extra="nn")

from stnjax.nn import canonicalisation as canonicalisation
from stnjax.nn import convolution as convolution
from stnjax.nn import deformation as deformation
from stnjax.nn import group_convolution as group_convolution
from stnjax.nn import initialisers as initialisers
from stnjax.nn import predictors as predictors
from stnjax.nn import receptive_fields as receptive_fields
from stnjax.nn.canonicalisation import PoseSearch as PoseSearch
from stnjax.nn.equivariant_localisation import (
  EQUIVARIANT_FAMILIES as EQUIVARIANT_FAMILIES,
)
from stnjax.nn.equivariant_localisation import (
  EquivariantLocaliser as EquivariantLocaliser,
)
from stnjax.nn.group_convolution import GroupConv as GroupConv
from stnjax.nn.group_convolution import LiftingConv as LiftingConv
from stnjax.nn.localisation import LocalisationConv as LocalisationConv
from stnjax.nn.localisation import LocalisationNet as LocalisationNet
from stnjax.nn.spatial_transformer import (
  SpatialTransformer as SpatialTransformer,
)
