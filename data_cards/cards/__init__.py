"""The cards, one YAML file a data set, in the shape of data_cards.schema.DataCard."""
