"""Simulated care: consultations between models, and agents that look things up in records."""
