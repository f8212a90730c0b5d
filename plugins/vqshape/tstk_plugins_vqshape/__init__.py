"""VQShape: a series as abstract shapes, each with a start, a length, a mean and a scale."""
