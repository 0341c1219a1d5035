"""Networks with a spatial transformer at a placement."""
