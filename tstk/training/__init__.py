"""Training a pipeline: the loop, its optimizer and data order, devices, run directories, and resuming."""
