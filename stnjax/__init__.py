"""Spatial transformers in JAX: differentiable warps, and where to put them.

Arrays in, arrays out:
  `warp`: transform, grid and sampling in one call;
  `grid_sample`, its adjoint `splat`, and `spline_coefficients`;
  `affine_grid`, `tps_grid`, `flow_grid`, `velocity_grid`: what to sample at;
  modules `coordinates` (the conventions) and `transforms` (matrices from
  parameters and back, and from other libraries).

Networks and experiments, each imported by name (`from stnjax import
networks`), in the order in which data passes through them:
  `datasets`, `perturbations`, `classifiers`, `localisation`, `deformation`,
  `networks`, `training`, `evaluation`, `alignability`, `runs`, `plots`.
"""

from stnjax import coordinates as coordinates
from stnjax import transforms as transforms
from stnjax.sampling import grid_sample as grid_sample
from stnjax.sampling import splat as splat
from stnjax.sampling.grids import affine_grid as affine_grid
from stnjax.sampling.grids import flow_grid as flow_grid
from stnjax.sampling.grids import tps_grid as tps_grid
from stnjax.sampling.grids import velocity_grid as velocity_grid
from stnjax.sampling.splines import spline_coefficients as spline_coefficients
from stnjax.sampling.warping import warp as warp

__version__ = "0.1.0"
