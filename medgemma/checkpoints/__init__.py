"""A checkpoint on disk and into memory: key layouts, convert, merge, plug, info, devices, fewer bits."""
