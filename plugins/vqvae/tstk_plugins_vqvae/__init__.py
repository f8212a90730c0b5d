"""VQ-VAE tokens, next-code pretraining and forecasting with codes, for tstk."""
