"""Metrics, baselines, and probes of frozen features."""
