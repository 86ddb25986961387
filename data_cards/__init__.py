"""Data cards: what each data set is, where it comes from, and the reader for a user's own copy. No torch."""
