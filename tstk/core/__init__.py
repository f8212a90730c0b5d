"""The records and interfaces that all components share, and the pipeline that connects them."""
