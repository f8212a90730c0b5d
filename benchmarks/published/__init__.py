"""The five papers' training steps in plain torch, as straightforward as their published programs.

Written from descriptions of the programs, none of which was copied. Each module has a model whose `forward(x)` returns
the loss of a batch of series [B, C, T], and `train_step`, one step of its program. Sizes and arithmetic are the
published ones; where a description leaves a choice of how to compute something, the faster way is taken.
"""
