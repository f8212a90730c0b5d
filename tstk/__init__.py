"""tstk: time-series tokenizers, encoders, heads and losses, mixed by name."""
