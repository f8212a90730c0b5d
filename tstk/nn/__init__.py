"""Building blocks shared by components: attention, transformer layers, positional embeddings, masked reductions."""
