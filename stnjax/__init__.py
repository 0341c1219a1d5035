"""Spatial transformers in JAX: differentiable warps, and where to place them.

Arrays in, arrays out; jax and numpy are all that `import stnjax` imports:
  `warp`: transform, grid and sampling in one call;
  `resize`: the whole image at another shape;
  `grid_sample`, its adjoint `splat`, and `spline_coefficients`;
  `affine_grid`, `tps_grid`, `flow_grid`, `velocity_grid`: sampling grids;
  `coordinates`: the conventions of the whole library;
  `transforms`: parameters to matrices, algebra, matrices of other libraries;
  `sampling`: all of the above, and the registries of methods, paddings and
    kernels;
  `augmentation`: random transforms, drawn per image.

Networks, each package imported by name (`from stnjax import nn`):
  `nn`: `SpatialTransformer`, localisation networks, deformable convolution;
  `alignability`: the theorem, and measures of a backbone's features;
  `data`: data sets, perturbations, synthetic sets;
  `placement`: a backbone and a placement make a network;
  `evaluation`: errors, invariance of answers, alignment of poses;
  `training`: settings, trainer, run folders;
  `paper`: backbones, data sets and presets of the paper;
  `plots`: figures.
"""

from stnjax import augmentation as augmentation
from stnjax import coordinates as coordinates
from stnjax import sampling as sampling
from stnjax import transforms as transforms
from stnjax.sampling import affine_grid as affine_grid
from stnjax.sampling import flow_grid as flow_grid
from stnjax.sampling import grid_sample as grid_sample
from stnjax.sampling import resize as resize
from stnjax.sampling import splat as splat
from stnjax.sampling import spline_coefficients as spline_coefficients
from stnjax.sampling import tps_grid as tps_grid
from stnjax.sampling import velocity_grid as velocity_grid
from stnjax.sampling import warp as warp

__version__ = "0.1.0"
