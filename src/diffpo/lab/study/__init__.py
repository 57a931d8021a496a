"""Studies: a grid of arms and seeds, one process a cell, and what they say with intervals (docs/studies.md)."""
