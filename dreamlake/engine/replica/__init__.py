"""The replica: a copy of a session on any fsspec filesystem, kept up to date, compared, adopted and trimmed."""
