"""The recipe of the shipped pair: stages, data, models, measurement, cards."""
