"""The core's own components, registered through the same hook as anybody else's."""
