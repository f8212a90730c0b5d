"""Shared blocks: attention, transformer layers, positions, reductions. Components of every kind are made of these."""
