"""What a model has to beat: raw pixels, and the words of the questions alone."""
