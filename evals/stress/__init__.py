"""Metrics under stress: reports with one meaning changed beside paraphrases, and which of the two a metric prefers."""
