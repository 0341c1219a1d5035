"""The experiments of the paper, and ours on pose estimators, as data.

`quick` takes minutes on 2 CPU cores and needs no data but what is embedded or
generated. `full` follows the paper and its published code, see
`stnjax.paper.protocols`.
"""

# The order of lists of presets.
# isort: off
from stnjax.paper.presets import mnist as mnist
from stnjax.paper.presets import house_numbers as house_numbers
from stnjax.paper.presets import plankton as plankton
from stnjax.paper.presets import cifar as cifar
from stnjax.paper.presets import pose_estimators as pose_estimators
from stnjax.paper.presets.preset import PRESETS as PRESETS
from stnjax.paper.presets.preset import SIZES as SIZES
from stnjax.paper.presets.preset import Preset as Preset
