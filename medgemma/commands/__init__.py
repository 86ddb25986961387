"""The commands of `medgemma`, a file each; `medgemma/cli.py` puts them together."""
