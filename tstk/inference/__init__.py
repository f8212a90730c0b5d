"""Inference with a trained run: predict, forecast, embed, tokenize, export."""
