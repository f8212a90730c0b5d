"""CWT-MAE-RoPE: masked autoencoding of wavelet images of time series."""
