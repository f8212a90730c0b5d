"""Ti-MAE for tstk: point tokens, a Mamba-2 encoder, and masking after the encoder."""
