"""Does a model's answer hold when it is asked otherwise, and does it need the picture."""
