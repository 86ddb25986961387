"""How good a scorer of entailment is: on labelled pairs about findings, and beside people's scores of summaries."""
