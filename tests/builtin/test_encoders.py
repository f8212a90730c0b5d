"""Properties of all encoders, of the Transformer, and of the models of transformers."""

import json
import math
import sys

import pytest
import torch

from tests.support.grids import slow_after
from tstk.builtin.encoders.bert import Bert
from tstk.builtin.encoders.hf import HF
from tstk.builtin.encoders.identity import Identity
from tstk.builtin.encoders.transformer import Transformer
from tstk.core.types import Spec, Tokens
from tstk.errors import CheckpointError, OptionError, TstkError
from tstk.plugins.signature import read_signature
from tstk.testing.components import iter_tensors_with_graph

GRID = (4, 3)
SMALL = {"dim": 24, "depth": 2, "heads": 2}
MAKERS = {
    "identity": lambda spec: Identity(spec),
    "transformer": lambda spec: Transformer(spec, **SMALL),
    "post": lambda spec: Transformer(spec, **SMALL, norm="post", residual_scale=0.5, positions="sinusoidal"),
    "low-rank": lambda spec: Transformer(
        spec, **SMALL, rank_ratio=0.5, cls=True, positions="learned+rotary", bias=False
    ),
    "rotary": lambda spec: Transformer(spec, **SMALL, cls=True, positions="rotary"),
    "causal": lambda spec: Transformer(spec, **SMALL, causal=True, positions="none"),
    "bert": lambda spec: Bert(spec, **SMALL, cls=True, out_dim=10),
    "bert-layers": lambda spec: Bert(spec, **SMALL, part="layers"),
    "hf": lambda spec: HF(spec, **SMALL, out_dim=10),
}
KINDS = ["bert", "distilbert", "electra", "modernbert", "roberta"]
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def spec_of(dim=6, grid=GRID):
    return Spec(channels=1, length=48, dim=dim, grid_size=grid)


def tokens_of(spec, batch=3, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(*[torch.arange(g) for g in spec.grid_size]).reshape(spec.num_tokens, -1)
    return Tokens(
        torch.randn(batch, spec.num_tokens, spec.dim, generator=draw, dtype=dtype),
        places.to(dtype).expand(batch, -1, -1),
        torch.arange(spec.num_tokens).expand(batch, -1),
        torch.ones(batch, spec.num_tokens, dtype=torch.bool),
    )


def built(make, spec, seed=0):
    torch.manual_seed(seed)
    return make(spec).eval()


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.slow
@every
def test_output_is_what_out_promises_and_zero_where_invalid(make):
    spec = spec_of()
    encoder = built(make, spec)
    tokens = tokens_of(spec)
    tokens.valid[1, 5:] = False
    tokens.values[1, 5:] = 0
    encoded = encoder(tokens).check(encoder.out, "encoder")
    assert encoder.pos_embed(tokens).shape == encoded.values.shape
    assert (encoded.prefix is not None) == bool(encoder.out.num_prefix_tokens)
    assert not encoded.values[1, 5:].any()


@every
@pytest.mark.parametrize("garbage", [7.0, float("nan")])
def test_values_at_invalid_tokens_do_not_influence_valid_ones(make, garbage):
    spec = spec_of()
    encoder = built(make, spec)
    tokens = tokens_of(spec)
    tokens.valid[0, 3:6] = False
    tokens.valid[2, 9:] = False
    other = tokens.replace(values=tokens.values.masked_fill(~tokens.valid[..., None], garbage))
    a, b = encoder(tokens), encoder(other)
    assert_close(a.values[tokens.valid], b.values[tokens.valid], 0)
    if a.prefix is not None:
        assert_close(a.prefix, b.prefix, 0)


@every
def test_padding_and_the_rest_of_the_batch_change_nothing(make):
    spec = spec_of()
    encoder = built(make, spec)
    tokens = tokens_of(spec)
    kept = torch.zeros(3, spec.num_tokens, dtype=torch.bool)
    kept[0, ::2] = kept[1] = kept[2, 3:5] = True
    together = encoder(tokens.select(kept))
    for i in range(3):
        alone = encoder(tokens_of(spec).gather(kept[i].nonzero().T.expand(3, -1)))
        assert_close(together.values[i, : kept[i].sum()], alone.values[i])


@every
def test_a_row_without_valid_tokens_gives_zeros_and_finite_gradients(make):
    spec = spec_of()
    encoder = built(make, spec)
    tokens = tokens_of(spec)
    tokens.valid[1] = False
    tokens.values[1] = 0
    tokens.values.requires_grad_()
    encoded = encoder(tokens)
    assert not encoded.values[1].any()
    encoded.values.square().sum().backward()
    assert tokens.values.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@every
def test_gradient_reaches_every_parameter_and_every_valid_token(make):
    spec = spec_of()
    encoder = built(make, spec)
    tokens = tokens_of(spec)
    tokens.values.requires_grad_()
    encoded = encoder(tokens)
    # Odd weights: the plain sum of a normalised vector has no gradient.
    loss = (encoded.values * torch.randn_like(encoded.values)).sum()
    if encoded.prefix is not None:
        loss = loss + encoded.prefix[..., 0].sum()
    loss.backward()
    assert tokens.values.grad.any(-1).all()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@every
def test_float64_works(make):
    spec = spec_of()
    encoder = built(make, spec).double()
    tokens = tokens_of(spec, dtype=torch.float64)
    tokens.valid[0, 4:] = False
    assert encoder(tokens).values.dtype == torch.float64


@every
def test_weights_load_back_and_give_the_same_output(make):
    spec = spec_of()
    encoder, twin = built(make, spec), built(make, spec, seed=1)
    twin.load_pretrained(encoder.state_dict(), spec)
    tokens = tokens_of(spec)
    assert_close(encoder(tokens).values, twin(tokens).values, 0)


@pytest.mark.parametrize("name", ["identity:Identity", "transformer:Transformer", "bert:Bert", "hf:HF"])
def test_every_option_has_a_line_of_help(name):
    options = read_signature(f"tstk.builtin.encoders.{name}").options
    assert [o.name for o in options.values() if not o.help] == []


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"causal"}))
def test_order_of_tokens_does_not_matter_where_nothing_is_causal(name):
    spec = spec_of()
    encoder = built(MAKERS[name], spec)
    tokens = tokens_of(spec)
    order = torch.stack([torch.randperm(spec.num_tokens) for _ in range(3)])
    assert_close(encoder(tokens.gather(order)).values, encoder(tokens).gather(order).values)


@pytest.mark.parametrize("rope", ["grid", "flat"])
def test_rotary_positions_see_distances_alone(rope):
    spec = spec_of()
    encoder = built(lambda s: Transformer(s, **SMALL, positions="rotary", rope=rope), spec)
    tokens = tokens_of(spec)
    moved = tokens.replace(pos=tokens.pos + torch.tensor([11.0, -4.0]))
    assert_close(encoder(tokens).values, encoder(moved).values)
    stretched = tokens.replace(pos=tokens.pos * torch.tensor([1.0, 2.0]))
    assert not torch.allclose(encoder(tokens).values, encoder(stretched).values, atol=1e-3)


def test_with_cls_rotary_tokens_stand_one_after_it_on_every_axis():
    spec = spec_of()
    encoder = built(MAKERS["rotary"], spec)
    plain = built(lambda s: Transformer(s, **SMALL, positions="rotary"), spec)
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if k != "cls"})
    plain.project = torch.nn.Identity()
    tokens = tokens_of(spec)
    inside = tokens.replace(
        values=torch.cat([encoder.cls.expand(3, -1, -1), encoder.project(tokens.values)], 1),
        pos=torch.cat([torch.zeros(3, 1, 2), tokens.pos + 1], 1),
        grid_index=torch.cat([tokens.grid_index[:, :1], tokens.grid_index], 1),
        valid=torch.ones(3, spec.num_tokens + 1, dtype=torch.bool),
    )
    encoded = encoder(tokens)
    assert_close(plain(inside).values, torch.cat([encoded.prefix, encoded.values], 1))


def test_flat_rotary_positions_are_those_of_one_line_in_which_time_runs_fastest():
    spec = spec_of()
    encoder = built(lambda s: Transformer(s, **SMALL, cls=True, positions="rotary", rope="flat"), spec)
    other = built(lambda s: Transformer(s, **SMALL, cls=True, positions="rotary"), spec.replace(grid_size=(12,)))
    other.load_state_dict(encoder.state_dict())
    tokens = tokens_of(spec)
    place = tokens.pos[..., :1] + GRID[0] * tokens.pos[..., 1:]
    assert sorted(place[0, :, 0].tolist()) == list(range(12))
    assert_close(encoder(tokens).values, other(tokens.replace(pos=place)).values)
    Transformer(spec, dim=24, heads=4, positions="rotary", rope="flat")  # a head of 6 cannot be shared by two axes


def test_a_place_of_its_own_is_added_to_cls():
    spec = spec_of()
    encoder = built(lambda s: Transformer(s, **SMALL, cls=True, cls_pos_embed=True), spec)
    plain = built(lambda s: Transformer(s, **SMALL, cls=True), spec)
    state = encoder.state_dict()
    state["cls"] = state["cls"] + state.pop("cls_pos_embed")
    plain.load_state_dict(state)
    assert_close(encoder(tokens_of(spec)).prefix, plain(tokens_of(spec)).prefix)


def test_later_tokens_never_change_earlier_outputs_of_a_causal_encoder():
    spec = spec_of()
    encoder = built(lambda s: Transformer(s, **SMALL, causal=True), spec)
    tokens = tokens_of(spec)
    tokens.valid[1, 0] = False  # nothing to see for the first token of this row
    changed = tokens.replace(values=torch.cat([tokens.values[:, :7], -tokens.values[:, 7:]], 1))
    a, b = encoder(tokens).values, encoder(changed).values
    assert_close(a[:, :7], b[:, :7], 0)
    assert (a[:, 7:] - b[:, 7:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("ragged", [False, True])
def test_extending_equals_encoding_everything_at_once(positions, ragged):
    spec = spec_of()
    encoder = built(lambda s: Transformer(s, **SMALL, causal=True, positions=positions), spec)
    tokens = tokens_of(spec)
    if ragged:
        tokens.valid[1, :3] = tokens.valid[2, 6:8] = False
    whole, state, parts = encoder(tokens).values, None, []
    for start, stop in ((0, 5), (5, 6), (6, 9), (9, 12)):
        before = state
        new = tokens.gather(torch.arange(start, stop).expand(3, -1))
        part, state = encoder.forward_incremental(new, before)
        again, _ = encoder.forward_incremental(new, before)  # the state given is left as it was
        assert_close(part.values, again.values, 0)
        parts.append(part.values)
    assert_close(torch.cat(parts, 1), whole)


def test_an_encoder_that_is_not_causal_cannot_be_extended():
    spec = spec_of()
    with pytest.raises(NotImplementedError, match="does not support incremental encoding"):
        Transformer(spec, **SMALL).forward_incremental(tokens_of(spec))


def test_place_is_all_that_distinguishes_tokens_of_equal_content():
    spec = spec_of()
    tokens = tokens_of(spec)
    same = tokens.replace(values=tokens.values[:, :1].expand_as(tokens.values).clone())
    spread = {}
    for positions in ("learned", "sinusoidal", "rotary", "none"):
        encoder = built(lambda s, p=positions: Transformer(s, **SMALL, positions=p), spec)
        spread[positions] = encoder(same).values.std(1).max().item()
        assert encoder.pos_embed(tokens).any().item() == (positions in ("learned", "sinusoidal"))
    assert spread["learned"] > 1e-3
    assert spread["sinusoidal"] > 1e-3
    assert spread["none"] < 1e-5


def test_a_learned_table_made_for_another_grid_is_resized_on_load():
    old, new = spec_of(grid=(4, 3)), spec_of(grid=(8, 3))
    trained = built(MAKERS["transformer"], old)
    encoder = built(MAKERS["transformer"], new)
    encoder.load_pretrained(trained.state_dict(), old)
    assert encoder.table.shape == (24, 24)
    assert_close(encoder.stack.blocks[0].mlp.up.weight, trained.stack.blocks[0].mlp.up.weight, 0)
    with pytest.raises(CheckpointError, match="one axis"):
        built(MAKERS["transformer"], spec_of(grid=(12,))).load_pretrained(trained.state_dict(), old)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 6, "dim": 128}, "heads=6 does not divide dim=128; nearby: 4, 8"),
        ({"causal": True, "cls": True}, "CLS"),
        ({"positions": "rotary", "dim": 24, "heads": 4}, "multiple of 4, and it is 6; nearby: 4, 8"),
        ({"cls_pos_embed": True}, "use encoder.cls=true"),
        ({"positions": "rotary", "position_std": 1.0}, "position_std=1.0: positions=rotary has no learned table"),
        ({"position_std": -1.0}, "position_std=-1.0: expected a finite deviation of 0 or more"),
        ({"rank_ratio": 0.0}, "rank_ratio=0.0"),
        ({"depth": -1}, "depth=-1"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(options, message):
    with pytest.raises(OptionError, match=message):
        Transformer(spec_of(), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_of_transformers_learns_in_one_step(kind):
    pytest.importorskip("transformers")
    spec = spec_of()
    encoder = built(lambda s: HF(s, architecture=kind, **SMALL), spec).train()
    step = torch.optim.SGD(encoder.parameters(), 0.1)
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    tokens = tokens_of(spec)
    loss = (encoder(tokens).values * torch.randn(3, spec.num_tokens, 24)).sum()
    loss.backward()
    step.step()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert any((p != before[n]).any() for n, p in encoder.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_models_number_tokens_by_slot_and_ignore_padding(kind):
    pytest.importorskip("transformers")
    spec = spec_of()
    encoder = built(lambda s: HF(s, architecture=kind, **SMALL), spec)
    tokens = tokens_of(spec)
    order = torch.stack([torch.randperm(spec.num_tokens) for _ in range(3)])
    assert_close(encoder(tokens.gather(order)).values, encoder(tokens).gather(order).values)
    kept = torch.zeros(3, spec.num_tokens, dtype=torch.bool)
    kept[0, 4:9] = kept[1] = kept[2, ::3] = True
    together = encoder(tokens.select(kept))
    alone = encoder(tokens.gather(torch.arange(4, 9).expand(3, -1)))
    assert_close(together.values[0, :5], alone.values[0])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_in_order_are_numbered_as_the_library_numbers_words(kind):
    pytest.importorskip("transformers")
    spec = spec_of(dim=24)
    encoder = built(lambda s: HF(s, architecture=kind, **SMALL), spec)
    tokens = tokens_of(spec)
    assert_close(encoder(tokens).values, encoder.model(inputs_embeds=tokens.values).last_hidden_state)


@pytest.mark.parametrize("kind", slow_after(1, KINDS))
def test_a_saved_transformers_model_is_rebuilt_without_its_folder(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    spec = spec_of()
    config = HF(spec, architecture=kind, **SMALL).config
    config.max_position_embeddings, config.vocab_size = 40, 9
    torch.manual_seed(0)
    reference = transformers.AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path / "model", safe_serialization=True)
    options = {"pretrained": str(tmp_path / "model"), "out_dim": 10, "lr": 1e-4, "freeze": "all"}
    encoder = HF(spec, **options).eval()
    encoder.init_from_pretrained()
    tensors = reference.state_dict()
    assert all(torch.equal(p, tensors[n]) for n, p in encoder.model.named_parameters())
    assert not list(iter_tensors_with_graph(encoder))
    assert encoder.lr_overrides() == {"model": 1e-4}
    assert encoder.frozen_paths() == ("model",)
    again = HF(spec, **json.loads(json.dumps(options | encoder.config_overrides))).eval()
    again.load_pretrained(encoder.state_dict(), spec)
    tokens = tokens_of(spec)
    assert_close(again(tokens).values, encoder(tokens).values, 0)


def test_norms_alone_learn_in_a_transformers_model_frozen_but_for_norms():
    pytest.importorskip("transformers")
    encoder = HF(spec_of(), architecture="modernbert", freeze="all-but-norms", **SMALL)
    free = {n for n, _ in encoder.named_parameters()} - set(encoder.frozen_paths())
    assert {n for n in free if n.startswith("model.")} == {n for n in free if "norm" in n}
    assert "model.final_norm.weight" in free


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 6, "dim": 128}, "heads=6 does not divide dim=128"),
        ({"config": "{}", "dim": 8}, "config sets the architecture; leave out dim"),
        ({"config": "no json"}, "config is not a configuration"),
        ({"config": '{"model_type": "robert"}'}, "config is not a configuration"),
        ({"config": '{"model_type": "t5", "d_model": 8, "num_layers": 1, "d_ff": 8}'}, "takes no position_ids"),
        ({"pretrained": "/no/such/folder"}, "cannot be read"),
    ],
)
def test_hf_refuses_what_cannot_work(options, message):
    pytest.importorskip("transformers")
    with pytest.raises(OptionError, match=message):
        HF(spec_of(), **options)


def test_hf_refuses_more_tokens_than_positions():
    pytest.importorskip("transformers")
    config = HF(spec_of(), **SMALL).config.to_json_string(use_diff=False)
    with pytest.raises(OptionError, match="60 tokens do not fit the 12 positions of roberta"):
        HF(spec_of(grid=(20, 3)), config=config)


def test_without_the_library_hf_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TstkError, match=r"pip install 'tstk-core\[hf\]'"):
        HF(spec_of(), **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "low-rank", "causal", "bert"])
def test_an_exported_encoder_takes_any_batch_and_hides_what_is_invalid(name):
    spec = spec_of()
    encoder = built(MAKERS[name], spec)

    class Tensors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, values, pos, index, valid):
            return self.encoder(Tokens(values, pos, index, valid)).values

    def inputs(batch):
        t = tokens_of(spec, batch=batch)
        return tuple(x.contiguous() for x in (t.values, t.pos, t.grid_index, t.valid))

    batch = torch.export.Dim("batch")
    program = torch.export.export(Tensors(), inputs(2), dynamic_shapes=({0: batch},) * 4).module()
    values, pos, index, valid = inputs(5)
    valid[1, 7:] = False
    assert_close(program(values, pos, index, valid), encoder(Tokens(values, pos, index, valid)).values)


def test_interleaved_positions_count_from_one_after_the_cls_token():
    spec = spec_of(dim=24, grid=(12,))
    encoder = built(lambda spec: Transformer(spec, **SMALL, cls=True, positions="interleaved"), spec)
    tokens = tokens_of(spec)
    want = torch.tensor(
        [
            [
                math.sin(t / 10000 ** (i // 2 / 12)) if i % 2 == 0 else math.cos(t / 10000 ** (i // 2 / 12))
                for i in range(24)
            ]
            for t in range(13)
        ]
    )
    assert_close(encoder.pos_embed(tokens)[0], want[1:])
    embedded = []
    encoder.stack.register_forward_pre_hook(lambda module, args: embedded.append(args[0]))
    encoder(tokens)
    assert_close(embedded[0], torch.cat([encoder.cls.expand(3, 1, 24), tokens.values], 1) + want)
