"""Symmetry as an instrument: groups, their action on data, and how far a model answers in kind."""
