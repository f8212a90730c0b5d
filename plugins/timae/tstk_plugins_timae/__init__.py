"""Ti-MAE for tstk: point tokens, Mamba-2, and masks that come after the encoder."""
