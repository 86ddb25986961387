"""Metrics whose names say what they are; every figure comes with n and a 95 % confidence interval."""
