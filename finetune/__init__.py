"""Recipes and losses that train or tune the encoder and the decoder."""
