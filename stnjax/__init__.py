"""Spatial transformers in JAX: differentiable warps, and where to put them.

Arrays in, arrays out:
  `warp`, `grid_sample`, `affine_grid`; modules `coordinates` (the
  conventions) and `transforms` (matrices from parameters and back).

Networks and experiments, each imported by name (`from stnjax import
networks`), in the order in which data passes through them:
  `datasets`, `perturbations`, `localisation`, `networks`, `training`,
  `evaluation`, `runs`, `plots`.
"""

from stnjax import coordinates as coordinates
from stnjax import transforms as transforms
from stnjax.grids import affine_grid as affine_grid
from stnjax.sampling import grid_sample as grid_sample
from stnjax.warping import warp as warp

__version__ = "0.1.0"
