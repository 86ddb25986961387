"""A table of a user's, looked over by decoding its pictures."""
