"""Alignability: can a spatial warp of features undo a transform of the image?

Theorem (Jansson, Maydanskiy, Finnveden and Lindeberg 2020, arXiv:2004.14716).
Let T_h f(x) = f(h^-1 x) be the image f transformed by h, and let G extract
features. A spatial transformer behind G warps all channels of a feature map by
one transform s. Does T_s undo h, that is, T_s G(T_h f) = G f for all f?

  1. Only s = h^-1 can: no other warp moves features back to their positions.
  2. s = h^-1 does if and only if G is invariant to h up to position: the
     feature of the transformed image at h x is that of the image at x.
     Rotations and reflections move responses between channels, as from one
     edge filter to another, unless every channel is invariant. Scalings and
     shears change the pattern inside a filter of fixed size. Translations are
     undone behind any G that is covariant with them, as convolutions are.

Group convolutions (`stnjax.nn.group_convolution`) move responses between
channels in a known way: a warp and a permutation of channels undo a rotation,
which `audit` measures with `channels=turned_channels(orientations)`.

Assumptions: G is continuous, semi-local (a feature depends on a neighbourhood
of its position) and covariant with translations. Limits in practice: networks
with strides are covariant with shifts by whole strides only, warps of sampled
images interpolate, and an inexact alignment may suffice for a classifier. This
package therefore *measures* the relative residual

  || T_s G(T_h f) - G f || / || G f ||

over the positions that do not depend on the border: for the only candidate
s = h^-1, for the best s that a search finds, and for both followed by the best
linear mixing of channels. The residuals of the image itself are the error of
interpolation alone.

An audit shows where to warp. Where to look is another question, which
`localisability` answers: how well the transform is read from each layer.

>>> import jax
>>> from stnjax import alignability
>>> images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
>>> turn = alignability.FAMILIES["rotation"]._replace(magnitudes=(90.0,))
>>> audit = alignability.audit(  # a layer of one horizontal difference
...   lambda x: x[:, :, 1:] - x[:, :, :-1], images,
...   families={"rotation": turn}, steps=0,
... )
>>> audit.layers
('input', 'features')
>>> bool(audit.undone("rotation")[0] > 0.99)  # the image can be turned back
True
"""

from stnjax import extras

extras.needs("optax", extra="nn")

from stnjax.alignability.audits import KINDS, Audit, audit
from stnjax.alignability.families import (
  FAMILIES,
  ImageTransforms,
  default_margin,
  default_transforms,
  extended,
  transformed,
)
from stnjax.alignability.features import INPUT, Features
from stnjax.alignability.geometry import Geometry, probe
from stnjax.alignability.localisability import (
  Localisability,
  localisability,
  read_poses,
)
from stnjax.alignability.orientations import Channels, turned_channels
from stnjax.alignability.readers import READERS, Readout
from stnjax.alignability.residuals import METHODS, Residuals, residual
from stnjax.alignability.stored import from_json, to_json

__all__ = [
  "FAMILIES",
  "INPUT",
  "KINDS",
  "METHODS",
  "READERS",
  "Audit",
  "Channels",
  "Features",
  "Geometry",
  "ImageTransforms",
  "Localisability",
  "Readout",
  "Residuals",
  "audit",
  "default_margin",
  "default_transforms",
  "extended",
  "from_json",
  "localisability",
  "probe",
  "read_poses",
  "residual",
  "to_json",
  "transformed",
  "turned_channels",
]
