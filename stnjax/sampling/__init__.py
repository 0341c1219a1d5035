"""Reading images at grids: warps, samplers and grids.

Images:
  `warp`: transform, grid and sampling in one call;
  `resize`: the whole image at another shape;
  `grid_sample`, `sample_pixels`: samples at normalised or pixel coordinates;
  `splat`: the adjoint of sampling;
  `spline_coefficients`: prefilter of the spline methods.

Grids:
  `affine_grid`, `affine_pixel_grid`: of a matrix;
  `tps_grid`, `flow_grid`, `velocity_grid`: of a field;
  `fit_tps`, `ThinPlateSpline`: of pairs of points;
  `lens_grid`: of the distortion of a lens;
  `undistort_points`, `distort_points`: points through that lens;
  `compose_flows`, `invert_flow`, `jacobian_determinant`: of displacements;
  `family_grid`: of the parameters of a transform family;
  `polar_grid`, `log_polar_grid`, `shear_grid`, `stretch_grid`: of coordinates
    in which rotations, scalings, shears and stretches are shifts.

Found by name, and open to others:
  `METHODS`, `Method`: interpolation between pixels;
  `PADDINGS`, `Padding`, `UNFILLED`: values outside the image;
  `KERNELS`, `Kernel`: implementations by platform.
"""

from stnjax.sampling.canonical_grids import log_polar_grid as log_polar_grid
from stnjax.sampling.canonical_grids import polar_grid as polar_grid
from stnjax.sampling.canonical_grids import shear_grid as shear_grid
from stnjax.sampling.canonical_grids import stretch_grid as stretch_grid
from stnjax.sampling.flows import compose_flows as compose_flows
from stnjax.sampling.flows import flow_grid as flow_grid
from stnjax.sampling.flows import invert_flow as invert_flow
from stnjax.sampling.flows import jacobian_determinant as jacobian_determinant
from stnjax.sampling.flows import velocity_grid as velocity_grid
from stnjax.sampling.grid_families import family_grid as family_grid
from stnjax.sampling.grids import affine_grid as affine_grid
from stnjax.sampling.grids import affine_pixel_grid as affine_pixel_grid
from stnjax.sampling.grids import tps_grid as tps_grid
from stnjax.sampling.kernels import KERNELS as KERNELS
from stnjax.sampling.kernels import Kernel as Kernel
from stnjax.sampling.labels import LABEL as LABEL
from stnjax.sampling.lenses import distort_points as distort_points
from stnjax.sampling.lenses import lens_grid as lens_grid
from stnjax.sampling.lenses import undistort_points as undistort_points
from stnjax.sampling.linearised import LINEARISED as LINEARISED
from stnjax.sampling.methods import METHODS as METHODS
from stnjax.sampling.methods import Method as Method
from stnjax.sampling.padding import PADDINGS as PADDINGS
from stnjax.sampling.padding import UNFILLED as UNFILLED
from stnjax.sampling.padding import Padding as Padding
from stnjax.sampling.point_splines import ThinPlateSpline as ThinPlateSpline
from stnjax.sampling.point_splines import fit_tps as fit_tps
from stnjax.sampling.resizing import resize as resize
from stnjax.sampling.sampler import grid_sample as grid_sample
from stnjax.sampling.sampler import sample_pixels as sample_pixels
from stnjax.sampling.splatting import splat as splat
from stnjax.sampling.splines import spline_coefficients as spline_coefficients
from stnjax.sampling.warping import warp as warp
