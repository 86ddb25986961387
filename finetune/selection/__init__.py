"""Proxies for a reward that nobody may see, computed from demonstrations, and choosing by them."""
