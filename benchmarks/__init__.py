"""Measured comparisons with peers: one machine, one run, the same weights and the same work (see README.md)."""
