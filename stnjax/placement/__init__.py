"""Networks with a spatial transformer at a placement.

Any backbone, a list of stages, and a placement make a network::

  name      localisation sees                  what is warped
  CNN                                          nothing
  STN-C0    the input                          the input
  STN-CX    the features behind stage X        those features
  STN-DLX   its own copy of stages 1..X        the input
  STN-SLX   the classifier's stages 1..X       the input
  STN-UCNX  the features behind stage X        the patch that stage X+1 reads
                                               at each place
  DEFX      the features behind stage X        each tap of stage X+1
  STN-CANX  copies of the input at a grid of   the input
            poses, by the classifier's stages
            1..X
  STN-EQX   the classifier's stages 1..X       the input
  GCNN                                         nothing; stages of group
                                               convolutions, 8 orientations

"STN-SL0,1" has two depths, run in order; "STN-SL1x2" runs one twice. STN-UCN,
DEF and STN-CAN have one depth, see `stnjax.nn.deformation` and
`stnjax.nn.canonicalisation`. STN-EQ has an equivariant localiser, see
`stnjax.nn.equivariant_localisation`.

  `create`, `place`: make a `Network`, by name or of a `Backbone`;
  `BACKBONES`, `Backbone`, `Task`: to add a backbone;
  `PLACEMENTS`, `Placement`, `register`: to add a placement;
  `ConvBlock`, `DenseHead`, `MeanHead`: ready-made stages and heads;
  `GroupConvBlock`, `GroupHead`: those of group convolutions.

Reference: Finnveden, Jansson and Lindeberg 2020 (arXiv:2004.11678).
"""

from stnjax import extras

extras.needs("flax", "optax", extra="nn")

# isort: off
# Placements register in the order of reports.
from stnjax.placement import no_transformer as no_transformer
from stnjax.placement import feature_warp as feature_warp
from stnjax.placement import input_warp as input_warp
from stnjax.placement import deformed as deformed
from stnjax.placement import canonical as canonical
from stnjax.placement import equivariant as equivariant
from stnjax.placement import group_cnn as group_cnn
# isort: on

from stnjax.placement import plain as plain
from stnjax.placement.backbone import BACKBONES as BACKBONES
from stnjax.placement.backbone import Backbone as Backbone
from stnjax.placement.backbone import Task as Task
from stnjax.placement.base import MOST_ITERATIONS as MOST_ITERATIONS
from stnjax.placement.base import PARTS as PARTS
from stnjax.placement.base import PLACEMENTS as PLACEMENTS
from stnjax.placement.base import Passed as Passed
from stnjax.placement.base import Placement as Placement
from stnjax.placement.base import Site as Site
from stnjax.placement.base import register as register
from stnjax.placement.blocks import ConvBlock as ConvBlock
from stnjax.placement.blocks import DenseHead as DenseHead
from stnjax.placement.blocks import MeanHead as MeanHead
from stnjax.placement.context import Context as Context
from stnjax.placement.creating import count_operations as count_operations
from stnjax.placement.creating import count_parameters as count_parameters
from stnjax.placement.creating import create as create
from stnjax.placement.creating import part as part
from stnjax.placement.creating import place as place
from stnjax.placement.deformed import Deformable as Deformable
from stnjax.placement.group_blocks import GroupConvBlock as GroupConvBlock
from stnjax.placement.group_blocks import GroupHead as GroupHead
from stnjax.placement.names import parse as parse
from stnjax.placement.network import Network as Network
from stnjax.placement.network import Output as Output
from stnjax.placement.probing import probe_backbone as probe_backbone
