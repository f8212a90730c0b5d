"""Training a pipeline: steps and what they learn from, where they run, and how a run is begun, kept and taken up."""
