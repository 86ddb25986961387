"""Whether a table to train on holds what evaluations ask: texts by their n-grams, pictures by what they show."""
