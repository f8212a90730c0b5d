"""Checkpoints of published programs: the plain models of `benchmarks/published` under the names of the originals."""

import re
from contextlib import suppress
from itertools import cycle

import torch

from benchmarks.published.timemae import TimeMAE
from tstk.errors import TstkError
from tstk.plugins.registry import get_registry
from tstk.runs.importing import SourceTensors, build_importer, convert_checkpoint

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


CHANGES = {
    "missing": lambda t: None,
    "one axis more": lambda t: t[None],
    "one axis less": lambda t: t.flatten(0, 1) if t.dim() > 1 else t.new_zeros(2 - 2 * t.dim()),
    "doubled": lambda t: torch.cat([t, t]) if t.dim() else t.new_zeros(2),
    "empty": lambda t: t.new_zeros(0, *t.shape[1:]),
}


def list_accepted_changes(kind, state, **options):
    """Return the names of tensors whose change an importer accepts, each changed in one way; ours are the only errors.

    Args:
        kind: name of the importer
        state: of a checkpoint that it accepts
        options: of the importer
    """
    importer, accepted = build_importer(get_registry().find("importer", kind), options), []
    state = {name: tensor.to("meta") for name, tensor in state.items()}
    for (name, tensor), change in zip(state.items(), cycle(CHANGES), strict=False):
        content = state | {name: CHANGES[change](tensor)}
        source = SourceTensors("x.pt", {k: v for k, v in content.items() if v is not None})
        with suppress(TstkError):
            convert_checkpoint(importer, source, kind)
            accepted.append(f"{name}: {change}")
    return accepted
