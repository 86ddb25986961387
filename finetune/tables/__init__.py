"""From a user's table to what is learned, and to figures of what was learned."""
