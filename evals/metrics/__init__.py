"""Metrics of what models write, whose names say what they are, and tests of two models on the same items.

answers            yes/no, exact match (raw, normalised), SQuAD's token F1, token recall: one pair at a time
token_f1_variants  the other "F1"s in circulation, under the name of where each comes from
text_overlap       ROUGE-L
conditions         macro F1 over named conditions, from one yes/no question a condition
boxes              IoU, both unit conventions
fields             F1 over the fields of JSON documents, by document and over all
reports            RadGraph F1, CheXbert F1 (packages of their own)
paired             differences of two models, McNemar, Holm, non-inferiority
reader_study       sensitivity at the readers' specificity

Metrics of labels, scores and probabilities, and all intervals, are in `medsiglip.metrics`.
"""
