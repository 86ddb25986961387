"""What a score is worth on a site's own pictures: probabilities that mean what they say, thresholds, label sets.

fitting        temperature, Platt and isotonic maps from logits to probabilities
decisions      thresholds at a wanted sensitivity; conformal sets at a stated level
calibration    both, with what they belong to; the YAML file
"""
