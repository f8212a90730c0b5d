"""From a configuration to a pipeline, and from a run directory back to it."""
