"""Reading images at grids: `warp`, `grid_sample`, its adjoint, and grids."""

from stnjax.sampling.grids import affine_grid as affine_grid
from stnjax.sampling.grids import affine_pixel_grid as affine_pixel_grid
from stnjax.sampling.grids import flow_grid as flow_grid
from stnjax.sampling.grids import tps_grid as tps_grid
from stnjax.sampling.grids import velocity_grid as velocity_grid
from stnjax.sampling.sampler import METHODS as METHODS
from stnjax.sampling.sampler import PADDINGS as PADDINGS
from stnjax.sampling.sampler import UNFILLED as UNFILLED
from stnjax.sampling.sampler import grid_sample as grid_sample
from stnjax.sampling.sampler import sample_pixels as sample_pixels
from stnjax.sampling.sampler import splat as splat
from stnjax.sampling.splines import spline_coefficients as spline_coefficients
from stnjax.sampling.warping import warp as warp
