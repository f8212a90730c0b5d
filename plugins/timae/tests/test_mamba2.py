"""Mamba-2 encoder: agreement with the reference, causality, incremental encoding, parameter counts."""

import pytest
import torch
from tstk_plugins_timae.mamba2 import Mamba2, Mamba2Mixer
from tstk_plugins_timae.point import Point

from tstk.core.types import Series, Spec, Tokens
from tstk.errors import IncompatibleError, OptionError

SPEC = Spec(channels=1, length=24, dim=6, grid_size=(24,))
WEIGHTS = torch.arange(1, 9)  # a plain sum over a normalized token has no gradient
SMALL = {"dim": 8, "depth": 2, "state": 5, "head_dim": 4, "chunk": 8}
MAKERS = {
    "plain": {},
    "cls": {"cls": True},
    "published": {"residual": False, "positions": "none", "cls": True, "depth": 1},
    "bidirectional": {"bidirectional": True, "cls": True},
}
every = pytest.mark.parametrize("options", MAKERS.values(), ids=MAKERS)
causal = pytest.mark.parametrize("options", [o for o in MAKERS.values() if "bidirectional" not in o])


def encoder_of(options, spec=SPEC, **more):
    torch.manual_seed(0)
    return Mamba2(spec, **{**SMALL, **options, **more}).eval().double()


def parameters(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


def assert_close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [5, 37])
def test_a_mixer_with_the_weights_of_transformers_mamba2_gives_its_outputs(tokens):
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    config = modeling.Mamba2Config(
        hidden_size=16, expand=2, num_heads=8, head_dim=4, state_size=12, conv_kernel=4, n_groups=1, chunk_size=16
    )
    torch.manual_seed(0)
    reference = modeling.Mamba2Mixer(config, 0).eval()
    ours = Mamba2Mixer(16, 12, 4, 2, 4, chunk=8)
    names = {
        "conv1d.": "conv.",
        "D": "skip",
        "norm.": "norm.",
    }
    state = {
        next((k.replace(a, b) for a, b in names.items() if k.startswith(a)), k): v
        for k, v in reference.state_dict().items()
    }
    ours.load_state_dict(state)
    x = torch.randn(2, tokens, 16)
    with torch.no_grad():
        output, _ = ours(x, torch.ones(2, tokens, dtype=torch.bool))
    torch.testing.assert_close(output, reference(x), rtol=1e-4, atol=1e-4)


@every
def test_output_matches_the_declared_spec_and_is_zero_where_invalid(options, make_tokens):
    encoder, tokens = encoder_of(options), make_tokens(SPEC, dtype=torch.float64)
    tokens.valid[1, 5:] = False
    encoded = encoder(tokens).check(encoder.out, "encoder")
    assert encoder.pos_embed(tokens).shape == encoded.values.shape
    assert (encoded.prefix is not None) == bool(encoder.out.num_prefix_tokens)
    assert not encoded.values[1, 5:].any()


@causal
def test_no_token_depends_on_a_later_one(options, make_tokens):
    encoder, tokens = encoder_of(options), make_tokens(SPEC, dtype=torch.float64)
    assert encoder.out.causal
    for i in (0, 9, 22):
        values = tokens.values.clone()
        values[:, i + 1 :] += 1
        assert_close(encoder(tokens.replace(values=values)).values[:, : i + 1], encoder(tokens).values[:, : i + 1])


def test_a_bidirectional_encoder_depends_on_both_sides_and_does_not_declare_itself_causal(make_tokens):
    encoder, tokens = encoder_of({"bidirectional": True}), make_tokens(SPEC, dtype=torch.float64)
    tokens.values.requires_grad_()
    encoder(tokens).values[:, 9].square().mul(WEIGHTS).sum().backward()
    assert tokens.values.grad.abs().sum(-1).gt(1e-9).all()
    assert not encoder.out.causal
    with pytest.raises(NotImplementedError):
        encoder.forward_incremental(tokens)


@every
def test_the_cls_token_depends_on_every_token(options, make_tokens):
    encoder, tokens = encoder_of(options), make_tokens(SPEC, dtype=torch.float64)
    if encoder.cls is None:
        return
    tokens.values.requires_grad_()
    encoder(tokens).prefix.square().mul(WEIGHTS).sum().backward()
    assert tokens.values.grad.abs().sum(-1).gt(1e-9).all()


@every
@pytest.mark.parametrize("garbage", [7.0, float("nan")])
def test_invalid_tokens_do_not_influence_valid_ones(options, garbage, make_tokens):
    encoder, tokens = encoder_of(options), make_tokens(SPEC, dtype=torch.float64)
    keep = torch.rand(tokens.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    gapped = tokens.replace(valid=keep, values=tokens.values.masked_fill(~keep[..., None], garbage))
    gapped.values.requires_grad_()
    encoded = encoder(gapped)
    encoded.values.square().sum().backward()
    assert gapped.values.grad[keep].isfinite().all()
    for i in range(len(keep)):  # each series alone, without its gaps
        alone = encoder(tokens.map(lambda t, i=i: t[i : i + 1, keep[i]]))
        assert_close(encoded.values[i, keep[i]], alone.values[0])
        if encoder.cls is not None:
            assert_close(encoded.prefix[i], alone.prefix[0])


@causal
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (10, 11, 20)])
def test_incremental_encoding_equals_encoding_at_once(options, cuts, make_tokens):
    encoder, tokens = encoder_of(options), make_tokens(SPEC, dtype=torch.float64)
    tokens.valid[1, 1:12] = False
    tokens.valid[2, 18:] = False
    whole, state, parts = encoder(tokens), None, []
    for a, b in zip((0, *cuts), (*cuts, 24), strict=True):
        part, state = encoder.forward_incremental(tokens.map(lambda t, a=a, b=b: t[:, a:b]), state)
        parts.append(part.values)
    assert_close(torch.cat(parts, 1), whole.values)
    if encoder.cls is not None:
        assert_close(part.prefix, whole.prefix)


@every
def test_the_chunk_size_does_not_change_the_output(options, make_tokens):
    encoder, other = encoder_of(options), encoder_of(options, chunk=5)
    tokens = make_tokens(SPEC, dtype=torch.float64)
    assert_close(encoder(tokens).values, other(tokens).values)


@pytest.mark.slow
@every
def test_an_exported_encoder_takes_any_batch(options, make_tokens):
    encoder = encoder_of(options)

    class Tensors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, values, pos, index, valid):
            return self.encoder(Tokens(values, pos, index, valid)).values

    def inputs(batch):
        t = make_tokens(SPEC, batch=batch, dtype=torch.float64)
        return tuple(x.contiguous() for x in (t.values, t.pos, t.grid_index, t.valid))

    batch = torch.export.Dim("batch")
    program = torch.export.export(Tensors(), inputs(2), dynamic_shapes=({0: batch},) * 4).module()
    values, pos, index, valid = inputs(5)
    valid[1, 7:] = False
    assert_close(program(values, pos, index, valid), encoder(Tokens(values, pos, index, valid)).values)


@every
def test_every_parameter_learns(options, make_tokens):
    encoder = encoder_of(options)
    encoded = encoder(make_tokens(SPEC, dtype=torch.float64))
    total = encoded.values.square().mul(WEIGHTS).sum()
    if encoded.prefix is not None:
        total = total + encoded.prefix.square().mul(WEIGHTS).sum()
    total.backward()
    without_gradient = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without_gradient == []


@pytest.mark.parametrize(
    ("dim", "state", "head_dim", "mixer", "whole"),
    [(64, 64, 8, 35_248, 35_696), (512, 128, 16, 1_744_320, 1_747_904), (512, 64, 8, 1_711_104, 1_714_688)],
)
def test_published_sizes_have_the_published_parameters(dim, state, head_dim, mixer, whole):
    tokenizer = Point(Spec(channels=1, length=140), dim=dim)
    encoder = Mamba2(tokenizer.out, dim=dim, state=state, head_dim=head_dim, residual=False, positions="none", cls=True)
    assert parameters(encoder.mixers) == mixer
    assert parameters(tokenizer, encoder) == whole


def test_initial_steps_and_decays_lie_in_the_published_ranges():
    mixer = Mamba2Mixer(64, 8, 1, 2, 4, chunk=8)
    steps, rates = torch.nn.functional.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 0.0009 < steps.min() < 0.01 < steps.max() < 0.11
    assert 1 <= rates.min() < 3 < 14 < rates.max() <= 16.001


def test_weights_trained_with_sinusoids_load_without_them(make_tokens):
    trained, bare = encoder_of({}), encoder_of({"positions": "none"})
    bare.load_pretrained(trained.state_dict(), trained.spec)
    tokens = make_tokens(SPEC, dtype=torch.float64)
    moved = tokens.replace(pos=tokens.pos + 3)
    assert_close(bare(tokens).values, bare(moved).values)
    assert (trained(tokens).values - trained(moved).values).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 6}, "head_dim=6 does not divide expand [*] dim = 16; nearby: 4, 8"),
        ({"depth": 0, "state": 0}, "depth=0: expected at least 1; encoder.state=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"backend": "mamba-ssm"}, "pip install mamba-ssm"),
    ],
)
def test_invalid_options_raise_an_error_with_the_remedy(options, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mamba_ssm", None)
    with pytest.raises(OptionError, match=message):
        encoder_of(options)


def test_tokens_without_an_order_are_refused():
    with pytest.raises(IncompatibleError, match="ordered"):
        Mamba2(SPEC.replace(ordered=False))


def test_a_series_of_odd_length_is_tokenized_and_encoded():
    tokenizer = Point(Spec(channels=2, length=31), dim=8)
    encoder = Mamba2(tokenizer.out, dim=12, head_dim=4, state=6)
    encoder(tokenizer(Series(torch.randn(2, 2, 17)))).check(encoder.out)
