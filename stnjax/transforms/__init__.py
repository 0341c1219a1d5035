"""Transforms: families of parameters, matrices, and those of other libraries.

A matrix maps output to input coordinates, both normalised (see
`stnjax.coordinates`): `[..., 2, 3]` is affine, `[..., 3, 3]` projective. The
object in the picture therefore moves by the *inverse* of the matrix.

Families (`families.py`):
  `FAMILIES`, `Family`: the families by name, and their type;
  `num_params`, `matrix`: number of parameters, and parameters to matrices.

Matrices (`matrices.py`, `decomposition.py`):
  `identity`, `translation`, `scaling`, `rotation`, `shearing`: built;
  `compose`, `invert`, `about`, `to_homogeneous`: combined;
  `decompose`, `Decomposition`: taken apart.

Points, boxes and shapes (`fitting.py`, `points.py`, `boxes.py`, `canvas.py`):
  `from_points`: fitted to pairs of points;
  `from_boxes`: crops of boxes;
  `apply_to_points`, `apply_to_boxes`: keypoints and boxes of a warped image;
  `fit_output`: the output shape that holds the whole image.

Other libraries (`interop.py`):
  `from_pixels`, `to_pixels`: matrices in pixels (scikit-image, scipy);
  `from_physical`: matrices in millimetres (SimpleITK), anisotropic pixels;
  `from_opencv`: matrices of `cv2.warpAffine` and `cv2.warpPerspective`.
"""

from stnjax.transforms.boxes import apply_to_boxes as apply_to_boxes
from stnjax.transforms.boxes import from_boxes as from_boxes
from stnjax.transforms.canvas import fit_output as fit_output
from stnjax.transforms.decomposition import Decomposition as Decomposition
from stnjax.transforms.decomposition import decompose as decompose
from stnjax.transforms.families import FAMILIES as FAMILIES
from stnjax.transforms.families import Family as Family
from stnjax.transforms.families import matrix as matrix
from stnjax.transforms.families import num_params as num_params
from stnjax.transforms.fitting import from_points as from_points
from stnjax.transforms.interop import from_opencv as from_opencv
from stnjax.transforms.interop import from_physical as from_physical
from stnjax.transforms.interop import from_pixels as from_pixels
from stnjax.transforms.interop import to_pixels as to_pixels
from stnjax.transforms.matrices import about as about
from stnjax.transforms.matrices import compose as compose
from stnjax.transforms.matrices import identity as identity
from stnjax.transforms.matrices import invert as invert
from stnjax.transforms.matrices import rotation as rotation
from stnjax.transforms.matrices import scaling as scaling
from stnjax.transforms.matrices import shearing as shearing
from stnjax.transforms.matrices import to_homogeneous as to_homogeneous
from stnjax.transforms.matrices import translation as translation
from stnjax.transforms.points import apply_to_points as apply_to_points
