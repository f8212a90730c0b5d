"""Scores, baselines, and what frozen features know."""
