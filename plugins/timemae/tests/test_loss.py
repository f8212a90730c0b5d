"""The TimeMAE loss: its values, information leaks, gradients, and the update of the teacher."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from tstk_plugins_timemae.loss import codeword_metrics

from tests.support.grids import slow_after
from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.errors import IncompatibleError, OptionError
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
    return pipeline(series, SampleRNG(seed, step, series.sample_id))


def train_steps(pipeline, series, steps=3, lr=0.05):
    optimizer = torch.optim.SGD([p for p in pipeline.parameters() if p.requires_grad], lr)
    for step in range(steps):
        step_output = run(pipeline, series, step)
        step_output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step([step_output])
    return pipeline


# ------------------------------------------------------------------ the losses


@encoders
@pytest.mark.parametrize("decoder", slow_after(1, list(DECODERS.values())), ids=DECODERS)
@pytest.mark.parametrize("policy", slow_after(1, ["random", "per-batch"]))
def test_masked_content_does_not_influence_predictions(build, spec, ragged, encoder, decoder, policy):
    pipeline = build(spec, encoder=encoder, decoder=decoder, loss={"policy": policy}).eval()
    step_output = run(pipeline, ragged)
    masked = torch.zeros(4, 11, dtype=torch.bool).scatter(
        1, step_output.queries.grid_index.masked_fill(~step_output.queries.valid, 10), True
    )
    samples = masked[:, :10].repeat_interleave(4, 1)[:, None]
    assert samples.any(-1).all()
    other = run(pipeline, ragged.replace(x=torch.where(samples, ragged.x * -3 + 1, ragged.x) * ragged.observed_mask))
    assert torch.equal(step_output.queries.grid_index, other.queries.grid_index)
    assert torch.equal(step_output.predictions[step_output.queries.valid], other.predictions[step_output.queries.valid])
    assert not torch.equal(
        step_output.queries.values[step_output.queries.valid], other.queries.values[step_output.queries.valid]
    )


@encoders
def test_padding_and_the_other_series_of_a_batch_do_not_influence_a_series(build, spec, ragged, encoder):
    pipeline = build(spec, encoder=encoder).eval()
    batched = run(pipeline, ragged)
    for i in range(4):
        length = int(ragged.observed[i].any(0).nonzero().max()) + 1
        single_series = ragged.replace(
            x=ragged.x[i : i + 1, :, :length],
            observed=ragged.observed[i : i + 1, :, :length],
            sample_id=ragged.sample_id[i : i + 1],
        )
        alone = run(pipeline, single_series)
        a, b = batched.queries, alone.queries
        assert torch.equal(a.grid_index[i][a.valid[i]], b.grid_index[0][b.valid[0]])
        assert torch.equal(a.attrs["codeword"][i][a.valid[i]], b.attrs["codeword"][0][b.valid[0]])
        torch.testing.assert_close(
            batched.predictions[i][a.valid[i]], alone.predictions[0][b.valid[0]], rtol=0, atol=1e-5
        )


def test_losses_and_metrics_equal_a_plain_loop(build, spec, ragged):
    pipeline = build(spec, loss={"align": 2.0, "classify": 0.5, "smoothing": 0.3}).eval()
    step_output = run(pipeline, ragged)
    loss, queries = pipeline.loss, step_output.queries
    teacher = loss.teacher(queries).values
    squares, entropies, hits, gains = [], [], [], []
    for b, m in queries.valid.nonzero().tolist():
        prediction, code = step_output.predictions[b, m], int(queries.attrs["codeword"][b, m])
        squares += (prediction - teacher[b, m]).square().tolist()
        logits = loss.codeword_classifier.weight @ prediction + loss.codeword_classifier.bias
        log = logits.log_softmax(0)
        entropies.append((-0.7 * log[code] - 0.3 * log.mean()).item())
        rank = logits.argsort(descending=True).tolist().index(code)
        hits.append(rank == 0)
        gains.append(1 / math.log2(rank + 2) if rank < 10 else 0.0)

    def mean(values):
        return sum(values) / len(values)

    assert set(step_output.losses) == {"align", "classify"}
    assert step_output.losses["align"].item() == pytest.approx(2 * mean(squares), rel=1e-5)
    assert step_output.losses["classify"].item() == pytest.approx(0.5 * mean(entropies), rel=1e-5)
    assert step_output.metrics["hits"].item() == pytest.approx(mean(hits))
    assert step_output.metrics["ndcg@10"].item() == pytest.approx(mean(gains), rel=1e-5)


def test_perplexity_and_usage_count_valid_codewords_only():
    metrics = codeword_metrics(
        torch.zeros(2, 3, 8), torch.tensor([[1, 1, 7], [2, 2, 7]]), torch.tensor([[True, True, False]] * 2)
    )
    assert metrics["perplexity"].item() == pytest.approx(2.0)
    assert metrics["usage"].item() == pytest.approx(2 / 8)


# ------------------------------------------------------------------ codewords


def test_codewords_and_masks_depend_on_seed_step_and_sample_only(build, spec, ragged):
    pipeline = build(spec, loss={"temperature": 30.0}).eval()

    def sample(order, **seeds):
        series = ragged.replace(x=ragged.x[order], observed=ragged.observed[order], sample_id=ragged.sample_id[order])
        queries = run(pipeline, series, **seeds).queries
        return [(a[v].tolist(), c[v].tolist()) for a, c, v in zip(
            queries.grid_index, queries.attrs["codeword"], queries.valid, strict=True)]  # fmt: skip

    first = sample([0, 1, 2, 3])
    torch.manual_seed(99)
    torch.rand(5)
    assert sample([0, 1, 2, 3]) == first
    assert sample([2, 0]) == [first[2], first[0]]
    assert sample([0, 1, 2, 3], step=2) != first
    assert sample([0, 1, 2, 3], seed=8) != first


@pytest.mark.slow
def test_codewords_are_sampled_from_the_softmax_of_the_content(build, spec, ragged):
    loss = build(spec, loss={"codes": 4}).loss
    tokens = build(spec).tokenizer(ragged).gather(torch.zeros(4, 1, dtype=torch.long))
    probs = loss.codeword_classifier(tokens.values[:, 0]).softmax(-1)
    counts = torch.zeros(4, 4)
    for step in range(3000):
        counts += F.one_hot(loss._sample_codewords(tokens, SampleRNG(0, step, ragged.sample_id))[:, 0], 4)
    torch.testing.assert_close(counts / 3000, probs, rtol=0, atol=0.04)
    loss.temperature = 0.0
    assert torch.equal(loss._sample_codewords(tokens, SampleRNG(0, 0, ragged.sample_id))[:, 0], probs.argmax(-1))


def test_one_layer_assigns_codewords_and_classifies_predictions(build, spec, ragged):
    pipeline = build(spec, loss={"temperature": 0.0}).eval()
    before = run(pipeline, ragged)
    with torch.no_grad():
        pipeline.loss.codeword_classifier.weight.copy_(pipeline.loss.codeword_classifier.weight.roll(1, 0))
    after = run(pipeline, ragged)
    valid = before.queries.valid
    assert torch.equal((before.queries.attrs["codeword"][valid] + 1) % 12, after.queries.attrs["codeword"][valid])
    assert after.losses["classify"].item() == pytest.approx(before.losses["classify"].item(), rel=1e-5)
    assert [n for n, _ in pipeline.loss.named_parameters() if "teacher" not in n] == [
        "codeword_classifier.weight",
        "codeword_classifier.bias",
    ]


# ------------------------------------------------------------------ gradients


def test_all_parameters_but_those_of_the_teacher_receive_gradients(build, spec, ragged):
    pipeline = build(spec)
    run(pipeline, ragged).loss.backward()
    without_gradient = [n for n, p in pipeline.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax over keys does not depend on a bias shared by all keys, up to rounding
    without_gradient = [n for n in without_gradient if not n.endswith("key.bias")]
    assert without_gradient
    assert all(n.startswith("loss.teacher.") for n in without_gradient)


def test_the_classifier_learns_from_predictions_only(build, spec, ragged):
    pipeline = build(spec)
    step_output = run(pipeline, ragged)
    queries, classifier = step_output.queries, pipeline.loss.codeword_classifier
    codewords, valid = queries.attrs["codeword"], queries.valid
    assert not codewords.dtype.is_floating_point
    cross_entropy = F.cross_entropy(
        classifier(step_output.predictions.detach())[valid], codewords[valid], label_smoothing=0.2
    )
    (expected,) = torch.autograd.grad(cross_entropy, classifier.weight)
    grads = torch.autograd.grad(step_output.loss, [classifier.weight, queries.values], allow_unused=True)
    torch.testing.assert_close(grads[0], expected)
    assert grads[1] is None


def test_with_weight_zero_the_classifier_receives_no_gradient(build, spec, ragged):
    pipeline = build(spec, loss={"classify": 0.0})
    run(pipeline, ragged).loss.backward()
    assert not pipeline.loss.codeword_classifier.weight.grad.any()


# ------------------------------------------------------------------ the teacher


@encoders
def test_the_teacher_is_an_exponential_moving_average_of_the_encoder(build, spec, ragged, encoder):
    pipeline = build(spec, encoder=encoder, loss={"momentum": 0.9})
    expected = deepcopy(dict(pipeline.encoder.named_parameters()))
    optimizer = torch.optim.SGD([p for p in pipeline.parameters() if p.requires_grad], 0.05)
    for step in range(4):
        step_output = run(pipeline, ragged, step)
        step_output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step([step_output])
        with torch.no_grad():
            for name, p in pipeline.encoder.named_parameters():
                expected[name] = 0.9 * expected[name] + 0.1 * p
    student = dict(pipeline.encoder.named_parameters())
    for name, p in pipeline.loss.teacher.named_parameters():
        if p is not student[name]:
            torch.testing.assert_close(p, expected[name])
            assert not p.requires_grad


@pytest.mark.parametrize("encoder", [ENCODERS["timemae"], ENCODERS["bert"], ENCODERS["cls"]], ids=str)
def test_the_teacher_shares_the_position_embeddings_of_the_encoder(build, spec, ragged, encoder):
    pipeline = train_steps(build(spec, encoder=encoder), ragged)
    tokens = pipeline.tokenizer(ragged)
    assert torch.equal(pipeline.loss.teacher.pos_embed(tokens), pipeline.encoder.pos_embed(tokens))
    shared = [n for n, p in pipeline.loss.teacher.named_parameters() if p is pipeline.encoder.get_parameter(n)]
    assert len(shared) == 1


def test_the_teacher_encodes_the_masked_tokens_only(build, spec, ragged):
    pipeline = build(spec).eval()
    step_output = run(pipeline, ragged)
    alone = pipeline.encoder(pipeline.tokenizer(ragged).select(step_output.masked.new_zeros(4, 10).scatter(
        1, step_output.queries.grid_index, step_output.queries.valid)))  # fmt: skip
    torch.testing.assert_close(pipeline.loss.teacher(step_output.queries).values, alone.values)


@pytest.mark.parametrize("dropout", [False, True])
def test_the_teacher_has_dropout_only_with_teacher_dropout(build, spec, ragged, dropout):
    pipeline = build(spec, loss={"teacher_dropout": dropout}).train()
    assert pipeline.loss.teacher.training is dropout
    queries = run(pipeline, ragged).queries
    a, b = (pipeline.loss.teacher(queries).values for _ in range(2))
    assert torch.equal(a, b) is not dropout
    assert not pipeline.eval().loss.teacher.training


def test_the_teacher_is_not_saved_with_the_weights(build, spec, ragged, tmp_path):
    from safetensors.torch import load_file

    from tstk.runs.checkpoint import save_weights

    pipeline = train_steps(build(spec), ragged)
    save_weights(pipeline, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert not [k for k in state if "teacher" in k]
    assert {"loss.codeword_classifier.weight", "encoder.table", "decoder.mask_token"} <= set(state)


# ------------------------------------------------------------------ reproducibility and errors


@pytest.mark.slow
def test_training_twice_with_one_seed_gives_the_same_weights(build, spec, ragged):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(train_steps(build(spec), ragged).state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        (
            {"encoder": {"dim": 32}},
            IncompatibleError,
            "--tokenizer.dim and --encoder.dim must be equal; they are 16 and 32",
        ),
        ({"decoder": {"use": "transformer", "dim": 24}}, IncompatibleError, "use --decoder.dim 16"),
        ({"decoder": {"use": "linear"}}, IncompatibleError, "--decoder transformer or cross"),
        ({"loss": {"ratio": 1.0}}, OptionError, "expected float, more than 0 and less than 1"),
        ({"loss": {"codes": 1}}, OptionError, "loss.codes .* expected int, 2 or more"),
        ({"loss": {"momentum": 1.5}}, OptionError, "expected float, 0 or more and 1 or less"),
        ({"loss": {"smoothing": 1.0}}, OptionError, r"loss.smoothing .from test. is 1.0"),
    ],
)
def test_invalid_options_raise_an_error_with_the_remedy(build, spec, tables, error, message):
    with pytest.raises(error, match=message):
        build(spec, **tables)


def test_pretraining_on_a_table_works_and_forecasting_raises(build, spec):
    from types import SimpleNamespace

    pipeline = build(spec.replace(task="forecasting", num_outputs=None, horizon=8))
    assert isinstance(pipeline, Pipeline)
    x = torch.randn(2, 2, 40)

    class Windows(SimpleNamespace):
        groups, lengths = None, torch.full((2,), 40)

        def __len__(self):
            return 2

        def batch(self, index):
            from tstk.core.types import Series

            return Series(x[index], None, torch.zeros(len(index), 2, 8), index)

    assert set(evaluate(pipeline, Windows())) >= {"align", "classify", "loss", "hits"}
    with pytest.raises(OptionError, match="--head forecast"):
        pipeline.predict_step(Windows().batch(torch.arange(2)))


def test_the_published_teacher_starts_from_the_weights_after_the_first_step(build, spec, ragged):
    weights = {}
    for start in ("initial", "first-step"):
        pipeline = build(spec, loss={"teacher_start": start, "momentum": 0.9})
        initial = pipeline.encoder.state_dict()["stack.blocks.0.mlp.up.weight"].clone()
        snapshots = []
        for steps in (1, 1):
            train_steps(pipeline, ragged, steps)
            encoder, teacher = (
                part.state_dict()["stack.blocks.0.mlp.up.weight"].clone()
                for part in (pipeline.encoder, pipeline.loss.teacher)
            )
            snapshots.append((encoder, teacher))
        weights[start] = initial, snapshots
    for start, (initial, ((first, teacher_1), (second, teacher_2))) in weights.items():
        want = first if start == "first-step" else 0.9 * initial + 0.1 * first
        torch.testing.assert_close(teacher_1, want)
        torch.testing.assert_close(teacher_2, 0.9 * want + 0.1 * second)


@pytest.mark.parametrize("start", ["initial", "first-step"])
def test_the_teacher_takes_the_buffers_of_the_encoder(build, spec, ragged, start):
    pipeline = build(spec, loss={"teacher_start": start})
    pipeline.encoder.register_buffer("running_mean", torch.zeros(3))
    pipeline.bind()
    pipeline.encoder.running_mean += 1
    train_steps(pipeline, ragged, 1)
    assert torch.equal(pipeline.loss.teacher.running_mean, torch.ones(3))


@pytest.mark.parametrize("start", ["initial", "first-step"])
def test_the_teacher_follows_weights_that_were_replaced_after_a_step(build, spec, ragged, start):
    pipeline = build(spec, loss={"teacher_start": start, "momentum": 0.9}).double()
    pipeline.encoder.stack.blocks[0].mlp.up.weight.requires_grad_(False)
    series = ragged.replace(x=ragged.x.double())
    train_steps(pipeline, series, 1)
    layer, average = (part.stack.blocks[0].mlp.up for part in (pipeline.encoder, pipeline.loss.teacher))
    layer.weight = torch.nn.Parameter(layer.weight + 1, requires_grad=False)
    before = average.weight.clone()
    train_steps(pipeline, series, 1)
    torch.testing.assert_close(average.weight, 0.9 * before + 0.1 * layer.weight)


def test_that_a_published_teacher_has_started_is_kept_with_the_weights(build, spec, ragged):
    pipeline, other = (build(spec, loss={"teacher_start": "first-step"}) for _ in range(2))
    train_steps(pipeline, ragged, 1)
    other.load_state_dict(pipeline.state_dict())
    train_steps(other, ragged, 1)
    encoder, teacher = other.encoder.stack.blocks[0].mlp.up.weight, other.loss.teacher.stack.blocks[0].mlp.up.weight
    assert not torch.equal(encoder, teacher)
