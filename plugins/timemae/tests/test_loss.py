"""What the loss asks, what it must not see, who learns from it, and how the teacher moves."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from tstk_plugins_timemae.loss import watched

from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.errors import NeedsError, OptionError
from tstk.evaluation.evaluate import evaluate

ENCODERS = {
    "timemae": {},
    "cls": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "cls": True},
    "causal": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "causal": True},
    "rotary": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "positions": "rotary"},
    "sinusoidal": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "positions": "sinusoidal"},
    "bert": {"use": "bert", "dim": 16, "depth": 1, "heads": 2},
    "out-map": {"use": "bert", "dim": 24, "depth": 1, "heads": 2, "out_dim": 16},
    "hf": {"use": "hf", "dim": 16, "depth": 1, "heads": 2},
    "identity": {"use": "identity"},
}
DECODERS = {
    "timemae": {},
    "cross": {"use": "cross", "depth": 1, "heads": 2},
    "transformer": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2},
}
encoders = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)


def run(pipeline, series, step=1, seed=7):
    return pipeline(series, Draws(seed, step, series.key))


def trained(pipeline, series, steps=3, lr=0.05):
    optimizer = torch.optim.SGD([p for p in pipeline.parameters() if p.requires_grad], lr)
    for step in range(steps):
        flow = run(pipeline, series, step)
        flow.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step([flow])
    return pipeline


# ------------------------------------------------------------------ the question


@encoders
@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("policy", ["random", "per_batch"])
def test_hidden_content_changes_no_answer(build, spec, ragged, encoder, decoder, policy):
    pipeline = build(spec, encoder=encoder, decoder=decoder, loss={"policy": policy}).eval()
    flow = run(pipeline, ragged)
    hidden = torch.zeros(4, 11, dtype=torch.bool).scatter(1, flow.asked.index.masked_fill(~flow.asked.valid, 10), True)
    samples = hidden[:, :10].repeat_interleave(4, 1)[:, None]
    assert samples.any(-1).all()
    other = run(pipeline, ragged.but(x=torch.where(samples, ragged.x * -3 + 1, ragged.x) * ragged.mask))
    assert torch.equal(flow.asked.index, other.asked.index)
    assert torch.equal(flow.decoded[flow.asked.valid], other.decoded[flow.asked.valid])
    assert not torch.equal(flow.asked.values[flow.asked.valid], other.asked.values[flow.asked.valid])


@encoders
def test_padding_and_companions_change_no_term(build, spec, ragged, encoder):
    pipeline = build(spec, encoder=encoder).eval()
    together = run(pipeline, ragged)
    for i in range(4):
        length = int(ragged.observed[i].any(0).nonzero().max()) + 1
        one = ragged.but(
            x=ragged.x[i : i + 1, :, :length],
            observed=ragged.observed[i : i + 1, :, :length],
            key=ragged.key[i : i + 1],
        )
        alone = run(pipeline, one)
        there, here = together.asked.valid[i], alone.asked.valid[0]
        for what in ("index", "codeword"):
            a, b = (f.asked.index if what == "index" else f.asked.attrs[what] for f in (together, alone))
            assert torch.equal(a[i][there], b[0][here])
        torch.testing.assert_close(together.decoded[i][there], alone.decoded[0][here], rtol=0, atol=1e-5)


def test_terms_are_those_of_a_plain_loop(build, spec, ragged):
    pipeline = build(spec, loss={"align": 2.0, "classify": 0.5, "smoothing": 0.3}).eval()
    flow = run(pipeline, ragged)
    loss, asked = pipeline.loss, flow.asked
    teacher = loss.teacher(asked).values
    squares, entropies, hits, gains = [], [], [], []
    for b, m in asked.valid.nonzero().tolist():
        answer, code = flow.decoded[b, m], int(asked.attrs["codeword"][b, m])
        squares += (answer - teacher[b, m]).square().tolist()
        logits = loss.center.weight @ answer + loss.center.bias
        log = logits.log_softmax(0)
        entropies.append((-0.7 * log[code] - 0.3 * log.mean()).item())
        place = logits.argsort(descending=True).tolist().index(code)
        hits.append(place == 0)
        gains.append(1 / math.log2(place + 2) if place < 10 else 0.0)

    def mean(values):
        return sum(values) / len(values)

    assert set(flow.terms) == {"align", "classify"}
    assert flow.terms["align"].item() == pytest.approx(2 * mean(squares), rel=1e-5)
    assert flow.terms["classify"].item() == pytest.approx(0.5 * mean(entropies), rel=1e-5)
    assert flow.logs["hits"].item() == pytest.approx(mean(hits))
    assert flow.logs["ndcg@10"].item() == pytest.approx(mean(gains), rel=1e-5)


def test_perplexity_and_usage_count_valid_codewords_alone():
    logs = watched(torch.zeros(2, 3, 8), torch.tensor([[1, 1, 7], [2, 2, 7]]), torch.tensor([[True, True, False]] * 2))
    assert logs["perplexity"].item() == pytest.approx(2.0)
    assert logs["usage"].item() == pytest.approx(2 / 8)


# ------------------------------------------------------------------ codewords


def test_codewords_and_masks_depend_on_seed_step_and_sample_alone(build, spec, ragged):
    pipeline = build(spec, loss={"temperature": 30.0}).eval()

    def drawn(order, **when):
        series = ragged.but(x=ragged.x[order], observed=ragged.observed[order], key=ragged.key[order])
        asked = run(pipeline, series, **when).asked
        return [(a[v].tolist(), c[v].tolist()) for a, c, v in zip(
            asked.index, asked.attrs["codeword"], asked.valid, strict=True)]  # fmt: skip

    first = drawn([0, 1, 2, 3])
    torch.manual_seed(99)
    torch.rand(5)
    assert drawn([0, 1, 2, 3]) == first
    assert drawn([2, 0]) == [first[2], first[0]]
    assert drawn([0, 1, 2, 3], step=2) != first
    assert drawn([0, 1, 2, 3], seed=8) != first


@pytest.mark.slow
def test_codewords_are_drawn_from_the_softmax_of_the_content(build, spec, ragged):
    loss = build(spec, loss={"codes": 4}).loss
    tokens = build(spec).tokenizer(ragged).at(torch.zeros(4, 1, dtype=torch.long))
    wanted = loss.center(tokens.values[:, 0]).softmax(-1)
    counts = torch.zeros(4, 4)
    for step in range(3000):
        counts += F.one_hot(loss._drawn(tokens, Draws(0, step, ragged.key))[:, 0], 4)
    torch.testing.assert_close(counts / 3000, wanted, rtol=0, atol=0.04)
    loss.temperature = 0.0
    assert torch.equal(loss._drawn(tokens, Draws(0, 0, ragged.key))[:, 0], wanted.argmax(-1))


def test_one_matrix_assigns_codewords_and_reads_them_off_answers(build, spec, ragged):
    pipeline = build(spec, loss={"temperature": 0.0}).eval()
    before = run(pipeline, ragged)
    with torch.no_grad():
        pipeline.loss.center.weight.copy_(pipeline.loss.center.weight.roll(1, 0))
    after = run(pipeline, ragged)
    valid = before.asked.valid
    assert torch.equal((before.asked.attrs["codeword"][valid] + 1) % 12, after.asked.attrs["codeword"][valid])
    assert after.terms["classify"].item() == pytest.approx(before.terms["classify"].item(), rel=1e-5)
    assert [n for n, _ in pipeline.loss.named_parameters() if "teacher" not in n] == ["center.weight", "center.bias"]


# ------------------------------------------------------------------ who learns


def test_gradient_reaches_tokenizer_encoder_decoder_and_center_and_never_the_teacher(build, spec, ragged):
    pipeline = build(spec)
    run(pipeline, ragged).total.backward()
    still = [n for n, p in pipeline.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax over keys is blind to what all keys share, up to rounding
    learning = [n for n in still if not n.endswith("key.bias")]
    assert learning
    assert all(n.startswith("loss.teacher.") for n in learning)


def test_center_learns_from_answers_and_hidden_tokens_teach_nobody(build, spec, ragged):
    pipeline = build(spec)
    flow = run(pipeline, ragged)
    asked, center = flow.asked, pipeline.loss.center
    assert not asked.attrs["codeword"].dtype.is_floating_point
    each = F.cross_entropy(
        center(flow.decoded.detach())[asked.valid], asked.attrs["codeword"][asked.valid], label_smoothing=0.2
    )
    (expected,) = torch.autograd.grad(each, center.weight)
    grads = torch.autograd.grad(flow.total, [center.weight, asked.values], allow_unused=True)
    torch.testing.assert_close(grads[0], expected)
    assert grads[1] is None


def test_without_classification_the_center_learns_nothing(build, spec, ragged):
    pipeline = build(spec, loss={"classify": 0.0})
    run(pipeline, ragged).total.backward()
    assert not pipeline.loss.center.weight.grad.any()


# ------------------------------------------------------------------ the teacher


@encoders
def test_the_teacher_is_the_stated_moving_average(build, spec, ragged, encoder):
    pipeline = build(spec, encoder=encoder, loss={"momentum": 0.9})
    expected = deepcopy(dict(pipeline.encoder.named_parameters()))
    optimizer = torch.optim.SGD([p for p in pipeline.parameters() if p.requires_grad], 0.05)
    for step in range(4):
        flow = run(pipeline, ragged, step)
        flow.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step([flow])
        with torch.no_grad():
            for name, p in pipeline.encoder.named_parameters():
                expected[name] = 0.9 * expected[name] + 0.1 * p
    own = dict(pipeline.encoder.named_parameters())
    for name, p in pipeline.loss.teacher.named_parameters():
        if p is not own[name]:
            torch.testing.assert_close(p, expected[name])
            assert not p.requires_grad


@pytest.mark.parametrize("encoder", [ENCODERS["timemae"], ENCODERS["bert"], ENCODERS["cls"]], ids=str)
def test_the_teacher_always_has_the_encoders_own_places(build, spec, ragged, encoder):
    pipeline = trained(build(spec, encoder=encoder), ragged)
    tokens = pipeline.tokenizer(ragged)
    assert torch.equal(pipeline.loss.teacher.place(tokens), pipeline.encoder.place(tokens))
    shared = [n for n, p in pipeline.loss.teacher.named_parameters() if p is pipeline.encoder.get_parameter(n)]
    assert len(shared) == 1


def test_the_teacher_sees_the_hidden_tokens_and_nothing_else(build, spec, ragged):
    pipeline = build(spec).eval()
    flow = run(pipeline, ragged)
    alone = pipeline.encoder(pipeline.tokenizer(ragged).keep(flow.hidden.new_zeros(4, 10).scatter(
        1, flow.asked.index, flow.asked.valid)))  # fmt: skip
    torch.testing.assert_close(pipeline.loss.teacher(flow.asked).values, alone.values)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_teacher_drops_only_where_asked_to(build, spec, ragged, dropout):
    pipeline = build(spec, loss={"teacher_dropout": dropout}).train()
    assert pipeline.loss.teacher.training is dropout
    asked = run(pipeline, ragged).asked
    a, b = (pipeline.loss.teacher(asked).values for _ in range(2))
    assert torch.equal(a, b) is not dropout
    assert not pipeline.eval().loss.teacher.training


def test_the_teacher_is_not_in_the_models_file_and_is_made_again(build, spec, ragged, tmp_path):
    from safetensors.torch import load_file

    from tstk.runs.checkpoint import save_weights

    pipeline = trained(build(spec), ragged)
    save_weights(pipeline, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert not [k for k in state if "teacher" in k]
    assert {"loss.center.weight", "encoder.table", "decoder.question"} <= set(state)


# ------------------------------------------------------------------ repeatable, and refusals


def test_training_twice_with_one_seed_gives_the_same_weights(build, spec, ragged):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(trained(build(spec), ragged).state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({"encoder": {"dim": 32}}, NeedsError, "--tokenizer.dim and --encoder.dim must be equal; they are 16 and 32"),
        ({"decoder": {"use": "transformer", "dim": 24}}, NeedsError, "use --decoder.dim 16"),
        ({"decoder": {"use": "linear"}}, NeedsError, "--decoder transformer or cross"),
        ({"loss": {"ratio": 1.0}}, OptionError, r"loss.ratio=1.0"),
        ({"loss": {"codes": 1}}, OptionError, r"loss.codes=1"),
        ({"loss": {"momentum": 1.5}}, OptionError, r"loss.momentum=1.5"),
        ({"loss": {"smoothing": 1.0}}, OptionError, r"loss.smoothing .from test. is 1.0"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(build, spec, tables, error, message):
    with pytest.raises(error, match=message):
        build(spec, **tables)


def test_a_table_can_be_pretrained_on_but_not_forecast(build, spec):
    from types import SimpleNamespace

    pipeline = build(spec.but(classes=None, horizon=8))
    assert isinstance(pipeline, Pipeline)
    x = torch.randn(2, 2, 40)

    class Windows(SimpleNamespace):
        def __len__(self):
            return 2

        def batch(self, index):
            from tstk.core.types import Series

            return Series(x[index], None, torch.zeros(len(index), 2, 8), index)

    assert set(evaluate(pipeline, Windows())) >= {"align", "classify", "loss", "hits"}
    with pytest.raises(OptionError, match="--head forecast"):
        pipeline.answer(Windows().batch(torch.arange(2)))
