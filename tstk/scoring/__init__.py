"""What a model is worth: scores, simple answers to hold them against, probes of frozen features, benchmarks."""
