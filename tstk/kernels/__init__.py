"""Three operations with several implementations each; this package needs torch and numpy and nothing else."""
