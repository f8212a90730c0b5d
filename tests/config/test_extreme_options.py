"""Every number that an option takes is refused in one line, or a pipeline can be built with it."""

import pytest

from tstk.config.resolve import SECTIONS, get_signature, parse_overrides, resolve_config
from tstk.errors import TstkError
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry
from tstk.runs.build import validate_on_meta

EXTREMES = {"int": ("-1", "0", "1000000000", "1000000000000"), "float": ("-1", "0", "1e30", "1e-30")}
TABLE = {"context": "32", "horizon": "8"}
CAUSAL = {"encoder": "transformer", "encoder.causal": "true"}
BASES = (
    {"head": "linear"},
    {"loss": "masked"},
    {"head": "forecast", **TABLE},
    {},
    TABLE,
    {"tokenizer": "cwt"},
    {"tokenizer": "vqvae"},
    {"loss": "reconstruct"},
    {"tokenizer": "vqvae", "encoder": "identity", "loss": "reconstruct"},
    {"tokenizer": "vqvae", **CAUSAL},
    {"tokenizer": "vqvae", **TABLE},
    {"tokenizer": "vqvae", **TABLE, **CAUSAL},
    {"tokenizer": "vqshape", "channels": "independent"},
    {"tokenizer": "vqshape", "channels": "independent", "encoder": "identity", "loss": "reconstruct"},
    {"head": "linear", "loss.teacher": "pretrained/small"},
    {"conditioning": "text=texts.npz"},
)


def build(overrides):
    validate_on_meta(resolve_config(("flag", parse_overrides(overrides))))


def find_base(slot, name):
    """Return a config with the component that can be built; None if none of `BASES` can."""
    for base in BASES:
        overrides = {**base, slot: name}
        if slot in ("loss", "decoder"):
            overrides.pop("head", None)
        try:
            build(overrides)
        except TstkError:
            continue
        return overrides
    return None


def try_extremes(prefix, signature, base):
    """Return the options and values that raise anything but one line for the user, and how many were tried."""
    faults, count = [], 0
    for name, option in signature.options.items():
        for value in EXTREMES.get(option.type, ()):
            count += 1
            try:
                build({**base, prefix + name: value})
            except TstkError as e:
                faults += [f"{prefix}{name}={value}: {e}"] if "\n" in str(e) else []
            except Exception as e:
                faults.append(f"{prefix}{name}={value}: {type(e).__name__} {e}")
    return faults, count


@pytest.mark.slow
@pytest.mark.parametrize("slot", SLOTS)
def test_extreme_numbers_of_a_component_build_or_are_refused_in_one_line(slot):
    faults, count = [], 0
    for name in get_registry().list_names(slot):
        base = find_base(slot, name)
        assert base is not None, f"no config of BASES builds with {slot} {name}: add one"
        more, tried = try_extremes(f"{slot}.", get_signature(slot, name), base)
        faults, count = faults + more, count + tried
    assert not faults
    assert count


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_extreme_numbers_of_a_section_build_or_are_refused_in_one_line(section):
    faults, _ = try_extremes("", get_signature(section, None), {"head": "linear"})
    assert not faults


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", -1), ("threads", 0), ("threads", 100_000), ("grad_clip", -1), ("weight_decay", -1),
        ("encoder.depth", 10**9), ("encoder.dim", 10**9), ("synthetic_count", 10**12),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(TstkError, match=r"expected|choose smaller"):
        build({"head": "linear", option: value})
