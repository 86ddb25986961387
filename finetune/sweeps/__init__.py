"""Sweeps over a recipe's settings."""
