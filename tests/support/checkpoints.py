"""Checkpoints of published programs: the plain models of `benchmarks/published` under the names of the originals."""

import re

import torch

from benchmarks.published.timemae import TimeMAE

TIMEMAE_NAMES = (
    (r"^project\.", "input_projection."),
    (r"^positions\.", "position.pe."),
    (r"^center\.", "tokenizer.center."),
    (r"^encoder\.", "encoder.TRMs."),
    (r"^teacher\.", "momentum_encoder.TRMs."),
    (r"^decoder\.", "reg.layers."),
    (r"\.attention\.linears\.", ".attn.linear_layers."),
    (r"\.attention\.out\.", ".attn.output_linear."),
    (r"\.mlp\.0\.", ".ffn.linear1."),
    (r"\.mlp\.2\.", ".ffn.linear2."),
    (r"\.skip([12])\.", r".skipconnect\1."),
)


def rename(state, names):
    """Return a state dict with every pattern of `names` replaced, in order."""
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def make_timemae(**sizes):
    """Return the published program with random weights, none of which is near 0, and its state dict."""
    torch.manual_seed(0)
    model = TimeMAE(**sizes).eval()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.2 if parameter.dim() else 0.7 + 0.01 * i)
    head = {"predict_head.weight": torch.zeros(6, sizes.get("dim", 64)), "predict_head.bias": torch.zeros(6)}
    return model, rename(model.state_dict(), TIMEMAE_NAMES) | head
