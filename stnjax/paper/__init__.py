"""The paper (Finnveden et al. 2020): data sets, perturbations, networks.

Importing this package registers them.
"""

from stnjax.paper import backbones as backbones
from stnjax.paper import datasets as datasets
from stnjax.paper import perturbations as perturbations
from stnjax.paper import ringed_digits as ringed_digits
