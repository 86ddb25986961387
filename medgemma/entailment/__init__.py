"""Whether a text says what another supports: scorers that commands, evaluations and rewards share."""
