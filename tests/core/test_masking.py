"""Masking policies: numbers of masked tokens, validity, and independence of the batch."""

from pathlib import Path

import pytest
import torch

import tstk
from tests.support.grids import slow_after
from tstk.core.masking import get_masking_policy
from tstk.core.rng import SampleRNG
from tstk.core.types import Tokens
from tstk.plugins.registry import get_registry

every = pytest.mark.parametrize("policy", [e.name for e in get_registry().list_entries("masking") if e.dist == "tstk"])
RATIOS = [0.0, 0.1, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0]
COLUMNS, SCALES = 15, 2


def tokens_of(batch=6, seed=0, share=0.8, rows=None):
    """A grid of 15 columns and 2 scales in which some tokens are invalid; `rows` are data set rows."""
    rows = torch.arange(batch) if rows is None else rows
    index = torch.arange(COLUMNS * SCALES).expand(len(rows), -1)
    pos = torch.stack([index // SCALES, index % SCALES], -1).float()
    valid = torch.rand(20, COLUMNS * SCALES, generator=torch.Generator().manual_seed(seed)) < share
    return Tokens(torch.zeros(*index.shape, 1), pos, index, valid[rows])


def hide(policy, tokens, ratio, keys=None, step=1, seed=0, **options):
    keys = torch.arange(len(tokens.valid)) if keys is None else keys
    return get_masking_policy(policy)(tokens, ratio, SampleRNG(seed, step, keys), **options)


def count_masked(count, ratio):
    """floor(ratio * count) in integers, for ratios with two decimals."""
    return count * round(100 * ratio) // 100


@every
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("share", slow_after(1, [0.8, 0.3, 1.0]))
def test_exactly_the_asked_share_of_valid_tokens_is_hidden(policy, ratio, share):
    tokens = tokens_of(share=share)
    hidden = hide(policy, tokens, ratio)
    if policy == "column":
        real = tokens.valid.unflatten(1, (COLUMNS, SCALES)).any(-1)
        gone = hidden.unflatten(1, (COLUMNS, SCALES)).any(-1)
        assert gone.sum(1).tolist() == [count_masked(int(n), ratio) for n in real.sum(1)]
    else:
        assert hidden.sum(1).tolist() == [count_masked(int(n), ratio) for n in tokens.valid.sum(1)]


@pytest.mark.parametrize("policy", ["random", "tail", "column"])
def test_the_share_is_exact_for_long_series(policy):
    n = 1175
    index = torch.arange(n).expand(1, n)
    tokens = Tokens(torch.zeros(1, n, 1), index[..., None].float(), index, torch.ones(1, n, dtype=torch.bool))
    assert hide(policy, tokens, 0.84).sum() == 987


@pytest.mark.parametrize(("file", "name"), [("template", "mask_earliest"), ("guide", "mask_ebb")])
def test_policies_of_the_template_and_the_guide_mask_the_exact_share_too(file, name):
    root = Path(tstk.__file__).parents[1]
    code = (root / "tstk/templates/masking/tstk_plugins_sketch/masking.py").read_text()
    if file == "guide":
        blocks = (root / "docs/plugin-guide.md").read_text().split("```")
        code = next(b.removeprefix("python") for b in blocks if b.startswith("python") and f"def {name}(" in b)
    namespace = {}
    exec(code, namespace)
    index = torch.arange(1175).expand(1, 1175)
    tokens = Tokens(torch.zeros(1, 1175, 1), index[..., None].float(), index, index >= 0)
    rng = SampleRNG(0, 0, torch.arange(1))
    counts = [int(namespace[name](tokens, ratio, rng, up).sum()) for ratio, up in ((0.84, False), (0.04, True))]
    assert counts == [987, 47]


@every
def test_invalid_tokens_are_never_hidden(policy):
    tokens = tokens_of(share=0.5)
    for ratio in RATIOS:
        assert not (hide(policy, tokens, ratio) & ~tokens.valid).any()


@every
def test_a_row_without_valid_tokens_hides_nothing(policy):
    tokens = tokens_of()
    tokens.valid[2] = False
    assert not hide(policy, tokens, 0.6)[2].any()


@every
def test_the_mask_of_a_sample_does_not_depend_on_its_batch(policy):
    whole = hide(policy, tokens_of(), 0.6)
    rows = torch.tensor([4, 1])
    assert torch.equal(hide(policy, tokens_of(rows=rows), 0.6, keys=rows), whole[rows])


@every
def test_the_mask_of_a_sample_does_not_depend_on_padding(policy):
    tokens = tokens_of()
    tokens.valid[:, 20:] = False
    short = tokens.gather(torch.arange(20).expand(6, -1))
    assert torch.equal(hide(policy, tokens, 0.6)[:, :20], hide(policy, short, 0.6))


@pytest.mark.parametrize("policy", ["random", "block", "column", "per-batch"])
def test_the_next_step_hides_others(policy):
    tokens = tokens_of(share=1.0)
    assert not torch.equal(hide(policy, tokens, 0.5), hide(policy, tokens, 0.5, step=2))


@pytest.mark.parametrize("policy", ["random", "block", "column"])
def test_rows_differ(policy):
    hidden = hide(policy, tokens_of(share=1.0), 0.5)
    assert len({tuple(row) for row in hidden.tolist()}) > 1


def test_per_batch_hides_the_same_slots_in_all_rows():
    hidden = hide("per-batch", tokens_of(share=1.0), 0.5)
    assert (hidden == hidden[0]).all()


def test_random_hides_every_token_equally_often():
    tokens = tokens_of(rows=torch.zeros(2000, dtype=torch.long), share=1.0)
    often = hide("random", tokens, 0.5).float().mean(0)
    assert (often - 0.5).abs().max() < 0.06


def test_tail_hides_the_latest():
    tokens = tokens_of(share=0.7)
    hidden = hide("tail", tokens, 0.4)
    for i in range(6):
        time = tokens.pos[i, :, 0]
        assert time[hidden[i]].min() >= time[~hidden[i] & tokens.valid[i]].max()


def test_block_hides_one_stretch_of_valid_tokens():
    tokens = tokens_of(share=0.7)
    hidden = hide("block", tokens, 0.4)
    for i in range(6):
        among_valid = hidden[i][tokens.valid[i]].int()
        assert among_valid.diff().abs().sum() + among_valid[0] + among_valid[-1] == 2


def test_block_starts_everywhere():
    rows = torch.zeros(500, dtype=torch.long)
    hidden = hide("block", tokens_of(rows=rows, share=1.0), 0.5, keys=torch.arange(500))
    assert set(hidden.int().argmax(1).tolist()) == set(range(COLUMNS * SCALES // 2 + 1))


def test_column_hides_all_scales_of_a_moment_together():
    tokens = tokens_of(share=0.7)
    hidden = hide("column", tokens, 0.5).unflatten(1, (COLUMNS, SCALES))
    valid = tokens.valid.unflatten(1, (COLUMNS, SCALES))
    gone = hidden.any(-1, keepdim=True)
    assert torch.equal(hidden, gone & valid)


@every
@pytest.mark.parametrize("ratio", RATIOS)
def test_rounding_up_keeps_as_many_tokens_as_mae_does(policy, ratio):
    tokens = tokens_of(share=0.7)
    valid, visible = tokens.valid, tokens.valid & ~hide(policy, tokens, ratio, round_up=True)
    if policy == "column":
        valid, visible = (t.unflatten(1, (COLUMNS, SCALES)).any(-1) for t in (valid, visible))
    hundredths = 100 - round(100 * ratio)
    assert visible.sum(1).tolist() == [int(n) * hundredths // 100 for n in valid.sum(1)]


def test_of_150_tokens_and_a_ratio_of_three_quarters_one_more_is_masked_if_rounded_up():
    index = torch.arange(150).expand(1, 150)
    tokens = Tokens(torch.zeros(1, 150, 1), index[..., None].float(), index, torch.ones(1, 150, dtype=torch.bool))
    assert [int(hide("random", tokens, 0.75, round_up=up).sum()) for up in (False, True)] == [112, 113]
