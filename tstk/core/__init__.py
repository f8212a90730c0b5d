"""The records and interfaces that every component shares, and the pipeline that wires them."""
