"""Optimal transport: exact for small sets of points, Sinkhorn's in bounded memory for large ones."""
