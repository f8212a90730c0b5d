"""Methods by data sets by seeds: run, ranked and written down."""
