"""What only the paper knows: its classifiers, as backbones.

Importing it registers them.
"""

from stnjax.paper import backbones as backbones
