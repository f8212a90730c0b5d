"""TimeMAE (Cheng et al., arXiv:2303.00320): mask windows of a series, predict their codewords and representations."""
