"""Plugin discovery: how components are announced, found by name and described without importing them."""
