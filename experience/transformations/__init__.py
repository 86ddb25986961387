"""What is done to episodes: the transformations of RLDS."""
