"""The KIND sketch for tstk."""
