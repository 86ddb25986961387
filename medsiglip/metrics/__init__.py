"""Metrics of labels, scores and probabilities, and the intervals of all figures; each with n and a 95 % interval.

classification     accuracy, balanced accuracy, precision, recall, specificity, the F1s, weighted kappa
ranking            AUROC, one class against the rest, average precision
calibration        expected calibration error (equal width, equal mass), Brier scores
bootstrap          drawing groups with replacement, and the intervals read off the draws
statistics         group bootstrap (percentile, BCa), Wilson: what all intervals come from
estimates          metrics that are no means of items, with their intervals
delong             an AUROC's interval and paired test, also for several items a patient

Metrics of texts, reports, boxes and fields, and tests of two models, are in `evals.metrics`.
"""
