"""One DICOM instance: its header for grouping, its values, its pixels; no patient tag is ever read.

`instance` is the way in; `parse` reads tags, `pixels` decodes stored values, `grey`, `palette` and `lut` render them.
"""
