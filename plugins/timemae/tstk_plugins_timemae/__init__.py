"""TimeMAE (Cheng et al., arXiv:2303.00320): hide windows of a series, ask for their codewords and representations."""
