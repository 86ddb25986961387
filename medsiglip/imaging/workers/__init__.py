"""Decoding in child processes: `pool` is the parent's side, `worker` the child's, `pipe` what goes between them."""
