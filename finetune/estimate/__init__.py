"""What tuning a model would take, before anything is loaded: memory by counting tensors, time by FLOPs."""
