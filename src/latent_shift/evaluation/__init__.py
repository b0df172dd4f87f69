"""Judging what a model makes: scorers, the protocols they are used in, and their results as files."""
