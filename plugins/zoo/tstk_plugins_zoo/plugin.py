"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_zoo"
_entry = partial(Entry, interface_version=1)
_PATCHTST = "PatchTST, arXiv:2211.14730"
_MIXER = "PatchTSMixer, arXiv:2306.09364"
_CHRONOS = "Chronos, arXiv:2403.07815"
_MOMENT = "MOMENT, arXiv:2402.03885"
_MANTIS = "Mantis, arXiv:2502.15637"
_PATCHES = frozenset({"stride", "patch_len", "target_dim", "ordered"})


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield a tokenizer and an encoder per model, and a config that connects them."""
    for name, target, summary, paper in (
        (
            "patchtst",
            "patchtst:PatchTSTTokenizer",
            "Linear map of patches, also PatchTSMixer's",
            _PATCHTST,
        ),
        ("chronos-bolt", "chronos_bolt:ChronosBoltTokenizer", "MLP of patches and of what was observed", _CHRONOS),
        ("moment", "moment:MomentTokenizer", "Linear map of patches of 8 samples, without bias", _MOMENT),
        ("mantis", "mantis:MantisTokenizer", "Convolutions, and mean and deviation of each patch", _MANTIS),
    ):
        yield _entry("tokenizer", name, f"{_HERE}.{target}", summary, provides=_PATCHES, paper=paper)
    for name, target, summary, provides, paper in (
        ("patchtst", "patchtst:PatchTST", "Layers with batch norm", {"num_prefix_tokens"}, _PATCHTST),
        ("patchtsmixer", "patchtsmixer:PatchTSMixer", "MLPs that mix patches, then features", (), _MIXER),
        ("chronos-bolt", "chronos_bolt:ChronosBolt", "T5 layers and a token REG", {"num_prefix_tokens"}, _CHRONOS),
        ("moment", "moment:Moment", "Sinusoids and Flan-T5 layers", (), _MOMENT),
        ("mantis", "mantis:Mantis", "A ViT with a CLS token", {"num_prefix_tokens"}, _MANTIS),
    ):
        yield _entry("encoder", name, f"{_HERE}.{target}", summary, provides=frozenset(provides), paper=paper)
    for name, summary, paper in (
        ("patchtst", "A linear head on PatchTST, trained whole", _PATCHTST),
        ("patchtsmixer", "A linear head on PatchTSMixer, trained whole", _MIXER),
        ("chronos-bolt", "A linear head on the mean of Chronos-Bolt's tokens", _CHRONOS),
        ("moment", "A linear head on the mean of MOMENT's tokens", _MOMENT),
        ("mantis", "A linear head on the CLS token of Mantis", _MANTIS),
    ):
        yield _entry("config", f"zoo/{name}", f"{_HERE}:configs/{name}.toml", summary, paper=paper)


SMALL_OPTIONS = {
    "tokenizer:mantis": {"scalar_dim": 8},
    "encoder:chronos-bolt": {"head_dim": 8},
    "encoder:moment": {"head_dim": 8},
    "encoder:mantis": {"head_dim": 16},
}
EXPECTED_FAILED_CHECKS = {
    "encoder:patchtst:has_noticeable_positions": "the library's fixed sinusoids have a deviation of 0.1",
}
