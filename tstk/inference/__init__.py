"""A trained run in use: predict, embed, tokenize, export."""
