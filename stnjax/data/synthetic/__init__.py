"""Data sets that are drawn instead of read."""
