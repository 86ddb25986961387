"""From outputs to figures: scores, pairing two runs item by item, comparing them."""
