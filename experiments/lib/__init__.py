"""Shared parts of the scripts."""
