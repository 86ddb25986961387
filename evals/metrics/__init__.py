"""Metrics whose names say what they are; every figure comes with n and a 95 % confidence interval.

answers            yes/no, exact match (raw, normalised), SQuAD's token F1, token recall: one pair at a time
token_f1_variants  the other "F1"s in circulation, under the name of where each comes from
text_overlap       ROUGE-L
classification     accuracy, balanced accuracy, precision, recall, specificity, the F1s, weighted kappa
conditions         macro F1 over named conditions, from one yes/no question a condition
ranking            AUROC, one class against the rest, average precision
calibration        expected calibration error (equal width, equal mass), Brier scores
boxes              IoU, both unit conventions
fields             F1 over the fields of JSON documents, by document and over all
reports            RadGraph F1, CheXbert F1 (packages of their own)
reader_study       sensitivity at the readers' specificity
statistics         group bootstrap (percentile, BCa), Wilson: what all intervals come from
estimates          metrics that are no means of items, with their intervals
delong             an AUROC's interval and paired test, also for several items a patient
paired             differences of two models, McNemar, Holm, non-inferiority
"""
