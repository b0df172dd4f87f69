"""Evaluation: sources of clips, features, metrics, one runner, and its report."""
