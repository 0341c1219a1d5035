"""Networks with a spatial transformer at a placement."""

from stnjax import extras

extras.needs("flax", extra="nn")
