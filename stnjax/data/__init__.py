"""Data sets and perturbations: one object each, found by name.

Data sets:
  `load`, `find`: a split of a data set, or its `Dataset`, by name: a registered
    name, "folder" (folders of pictures by class) or "tfds:NAME" (any prepared
    image classification set of TensorFlow Datasets);
  `from_arrays`: a `Dataset` of arrays in memory;
  `DATASETS`: the registry, to which a `Dataset` of one's own is added.

Perturbations:
  `perturb`, `output_shape`: a batch perturbed on the device, and its shape;
  `rotate`, `translate`, `scale`, `clutter`: building blocks;
  `PERTURBATIONS`: the registry, to which a `Perturbation` is added;
  `Axis`, `ROTATION`, `TRANSLATION_X`, ...: measures of a perturbation;
  `object_motion`: the motion of the object that poses amount to, by axis;
  `undone`: a perturbation undone by its truth, as by an ideal transformer;
  `affine_part`: the affine maps that poses are close to;
  `check_perturbation`: whether a perturbation and its axes fit together.

The data sets and perturbations of the paper are registered by
`import stnjax.paper`. Importing this package is cheap: TFDS and Pillow are
imported when a data set is read.
"""

from stnjax import extras

extras.needs("etils", extra="experiments")

from stnjax.data.arrays import from_arrays as from_arrays
from stnjax.data.axes import ROTATION as ROTATION
from stnjax.data.axes import SCALE_X as SCALE_X
from stnjax.data.axes import SCALE_Y as SCALE_Y
from stnjax.data.axes import TRANSLATION_X as TRANSLATION_X
from stnjax.data.axes import TRANSLATION_Y as TRANSLATION_Y
from stnjax.data.axes import Axis as Axis
from stnjax.data.axes import Truth as Truth
from stnjax.data.axes import affine_part as affine_part
from stnjax.data.axes import object_motion as object_motion
from stnjax.data.dataset import DATASETS as DATASETS
from stnjax.data.dataset import Dataset as Dataset
from stnjax.data.dataset import Examples as Examples
from stnjax.data.dataset import channel_statistics as channel_statistics
from stnjax.data.dataset import find as find
from stnjax.data.dataset import load as load
from stnjax.data.folder import describe as _describe_folder
from stnjax.data.perturbation_checks import (
  check_perturbation as check_perturbation,
)
from stnjax.data.perturbations import PERTURBATIONS as PERTURBATIONS
from stnjax.data.perturbations import Perturbation as Perturbation
from stnjax.data.perturbations import clutter as clutter
from stnjax.data.perturbations import output_shape as output_shape
from stnjax.data.perturbations import perturb as perturb
from stnjax.data.perturbations import rotate as rotate
from stnjax.data.perturbations import scale as scale
from stnjax.data.perturbations import translate as translate
from stnjax.data.undone import undone as undone

DATASETS.register("folder", _describe_folder)
