"""Layers in Flax NNX: spatial transformers, localisation nets, convolutions.

A spatial transformer in a network of your own:

  st = nn.SpatialTransformer(nn.LocalisationNet((28, 28, 1), 6, rngs=rngs))
  warped, theta = st(images)

`deformation`, `convolution` and `receptive_fields` are modules of functions.
"""

try:
  import flax as _flax  # noqa: F401
except ModuleNotFoundError as error:
  if error.name != "flax":
    raise
  raise ModuleNotFoundError(
    "stnjax.nn needs flax: pip install 'stnjax[nn]'", name="flax"
  ) from None

from stnjax.nn import convolution as convolution
from stnjax.nn import deformation as deformation
from stnjax.nn import receptive_fields as receptive_fields
from stnjax.nn.localisation import LocalisationNet as LocalisationNet
from stnjax.nn.spatial_transformer import (
  SpatialTransformer as SpatialTransformer,
)
