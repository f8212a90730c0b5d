"""How components are announced, found by name and described without being imported."""
