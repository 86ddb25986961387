"""Probes on embeddings, from table to saved head.

matching       rows of a LABELS.csv to rows of an embeddings file
head           what is fitted and saved: linear, or a small network
study          held-out figures, learning curve, another encoder beside
"""
