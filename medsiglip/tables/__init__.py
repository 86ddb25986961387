"""A user's table, its pictures decoded: what cannot be read, and what is there under two names."""
