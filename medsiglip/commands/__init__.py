"""The commands of `medsiglip`, a file each where a command is more than a few lines."""
