"""On-policy algorithms, a file each, reading like its paper's box."""
