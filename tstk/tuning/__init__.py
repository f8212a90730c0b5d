"""Search for the options with the best validation score: `tstk tune`."""
