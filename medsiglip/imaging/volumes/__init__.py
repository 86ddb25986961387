"""The third dimension: slices to series (`series`, `stack`), series and NIfTI to volumes, volumes to pictures."""
