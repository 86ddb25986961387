"""Readers: a folder with a user's copy of a data set in, typed records with group keys out."""
