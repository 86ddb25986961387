"""Losses that the recipes share."""
