"""How well probabilities tell labels: figures with intervals over groups, by subgroup, and one HTML page of them."""
