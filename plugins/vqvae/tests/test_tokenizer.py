"""The VQ-VAE: sizes, shapes, receptive fields, masks, and updates of the codebook."""

import json

import pytest
import torch
from torch.nn import functional as F
from tstk_plugins_vqvae.tokenizer import VQVAE

from tstk.core.types import Series, Spec, StepOutput
from tstk.errors import OptionError

TINY = {"codes": 16, "dim": 8, "hidden": 16, "res_hidden": 8}
FACTORS = (4, 8, 12, 16)
PADDINGS = ("published", "causal", "patch")


def make_tokenizer(length=48, seed=0, channels=1, **options):
    torch.manual_seed(seed)
    return VQVAE(Spec(channels=channels, length=length), **{**TINY, **options})


def waves(batch=3, length=48, seed=0):
    return Series(torch.randn(batch, 1, length, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("factor", "count"), [(4, 296_001), (8, 427_329), (12, 443_713), (16, 558_657)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_published_settings_have_the_published_number_of_parameters(factor, count, padding):
    tokenizer = VQVAE(Spec(channels=1, length=96), factor=factor, padding=padding, update="gradient")
    assert sum(p.numel() for p in tokenizer.parameters()) == count


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("length", [48, 45, 5])
def test_any_length_comes_back_at_its_length(factor, padding, length):
    tokenizer = make_tokenizer(length, factor=factor, padding=padding)
    tokens = tokenizer(waves(1, length)).check(tokenizer.out)
    assert tokens.values.shape[1] == -(-length // factor)
    assert tokens.valid.all()
    assert tokenizer.decode(tokens.values, length).shape == (1, 1, length)


@pytest.mark.parametrize("factor", FACTORS)
def test_the_published_network_is_what_torch_makes_of_its_description(factor):
    tokenizer = make_tokenizer(factor=factor, padding="published").eval()
    x = waves().x
    z, encoder = x, tokenizer.encoder
    for i, conv in enumerate(encoder.down):
        z = F.conv1d(z, conv.weight, conv.bias, stride=3 if (factor, i) == (12, 2) else 2, padding=1).relu()
    z = F.conv1d(z, encoder.conv.weight, encoder.conv.bias, padding=1)

    def residual(z, stack):
        for wide, narrow in zip(stack.wide, stack.narrow, strict=True):
            z = z.relu()  # in place in the published code, so the sum has it too
            z = z + F.conv1d(F.conv1d(z, wide.weight, padding=1).relu(), narrow.weight)
        return z.relu()

    z = F.conv1d(residual(z, encoder.residual), encoder.out.weight, encoder.out.bias)
    torch.testing.assert_close(tokenizer.encoder(x), z.transpose(1, 2))
    ids = torch.cdist(z.transpose(1, 2), tokenizer.codebook.codes).argmin(-1)
    tokens = tokenizer(Series(x))
    assert torch.equal(tokens.ids, ids)
    decoder = tokenizer.decoder
    y = F.conv1d(tokenizer.embed(ids).transpose(1, 2), decoder.conv.weight, decoder.conv.bias, padding=1)
    y = residual(y, decoder.residual)
    for i, conv in enumerate(decoder.up):
        y = F.conv_transpose1d(y if i == 0 else y.relu(), conv.weight, conv.bias, 3 if (factor, i) == (12, 0) else 2, 1)
    torch.testing.assert_close(tokenizer.decode(tokens.values, 48), y)


def test_the_causal_network_and_its_gradients_are_those_of_convolutions_padded_before_the_samples_only():
    encoder, x = make_tokenizer(padding="causal").encoder, waves().x

    def convolve(z, conv, stride=1):
        return F.conv1d(F.pad(z, (conv.weight.shape[-1] - stride, 0)), conv.weight, conv.bias, stride)

    z = x
    for conv in encoder.down:
        z = convolve(z, conv, 2).relu()
    z = convolve(z, encoder.conv)
    for wide, narrow in zip(encoder.residual.wide, encoder.residual.narrow, strict=True):
        z = z.relu()
        z = z + convolve(convolve(z, wide).relu(), narrow)
    expected = convolve(z.relu(), encoder.out).transpose(1, 2)
    vectors, parameters = encoder(x), list(encoder.parameters())
    torch.testing.assert_close(vectors, expected)
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    grads, expected_grads = (torch.autograd.grad((y * weights).sum(), parameters) for y in (vectors, expected))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_a_code_that_starts_with_zero_is_decoded_and_a_code_of_zeros_is_masked():
    tokenizer = make_tokenizer().eval()
    values = tokenizer(waves()).values.detach().clone()
    values[:, 2, 0] = 0
    torch.testing.assert_close(tokenizer.decode(values, 48), tokenizer.decoder(values))
    values[0, -1] = 0
    mask = torch.ones(3, 1, 12)
    mask[0, 0, -1] = 0
    torch.testing.assert_close(tokenizer.decode(values, 48), tokenizer.decoder(values, mask))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_codes_depend_on_later_samples_with_published_padding_only(factor, padding):
    encoder = make_tokenizer(96, factor=factor, padding=padding, dim=32).encoder.double()
    x = torch.randn(1, 1, 96, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    at = 48 // factor - 1  # the code whose samples end at 48
    (gradient,) = torch.autograd.grad(encoder(x)[0, at].square().sum(), x)
    touched = gradient[0, 0].nonzero()[:, 0]
    last, first = int(touched.max()), int(touched.min())
    assert (last >= 48) == (padding == "published")
    assert (first < 48 - factor) == (padding != "patch")
    if (factor, padding) == (4, "published"):
        assert (first, last) == (44 - 15, 47 + 15)


@torch.no_grad()
def test_causal_vectors_depend_on_no_later_sample_even_in_their_rounding():
    encoder = make_tokenizer(512, padding="causal", hidden=64, res_hidden=32).encoder.eval()
    x = waves(16, 512).x  # so many that the kernel in C++ would take them
    changed = x.clone()
    changed[..., 308:] += 1e6
    vectors, other = encoder(x), encoder(changed)
    assert torch.equal(vectors[:, :77], other[:, :77])
    assert not torch.equal(vectors[:, 77:], other[:, 77:])


@pytest.mark.parametrize("padding", PADDINGS)
def test_what_was_not_observed_changes_nothing_and_padding_is_no_different(padding):
    tokenizer = make_tokenizer(padding=padding).eval()
    series = waves(2)
    observed = torch.ones(2, 1, 48, dtype=torch.bool)
    observed[1, 0, 29:] = False
    x = series.x * observed
    long = tokenizer(Series(x, observed))
    short = tokenizer(Series(x[1:, :, :29]))
    assert long.valid.sum(1).tolist() == [12, 8]
    torch.testing.assert_close(long.values[1:, :8], short.values)
    assert not long.values[1, 8:].any()
    torch.testing.assert_close(
        tokenizer.decode(long.values, 48)[1:, :, :29], tokenizer.decode(short.values, 29), rtol=1e-4, atol=1e-6
    )
    assert all(v.isfinite() for v in long.aux_losses.values())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_reconstruction_teaches_encoder_and_decoder_and_the_codebook_as_it_learns(update):
    tokenizer = make_tokenizer(update=update)
    tokens = tokenizer(waves())
    loss = tokenizer.decode(tokens.values, 48).square().mean()
    loss.backward(retain_graph=True)
    assert tokenizer.encoder.down[0].weight.grad.any()  # straight through the codes
    assert tokenizer.decoder.up[-1].weight.grad.any()
    if update == "gradient":
        assert tokenizer.codebook.codes.grad is None
        sum(tokens.aux_losses.values()).backward()
        assert tokenizer.codebook.codes.grad.any()
        assert set(tokens.aux_losses) == {"commitment", "codebook"}
    else:
        assert set(tokens.aux_losses) == {"commitment"}


def test_the_codebook_moves_after_a_step_and_stays_when_frozen():
    tokenizer = make_tokenizer()

    def step():
        before = tokenizer.codebook.codes.clone()
        tokens = tokenizer(waves())
        step_output = StepOutput(waves(), tokens, tokens, tokens, torch.zeros_like(tokens.valid))
        tokenizer.after_step([step_output])
        return step_output.metrics, not torch.equal(before, tokenizer.codebook.codes)

    logs, moved = step()
    assert moved
    assert {"usage", "perplexity", "revived"} <= logs.keys()
    tokenizer.codebook.eval()
    assert not step()[1]


@pytest.mark.parametrize("padding", PADDINGS)
def test_decoding_the_end_needs_no_more_than_its_reach(padding):
    tokenizer = make_tokenizer(96, factor=4, padding=padding).eval()
    values = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    reach = tokenizer.decoder.receptive_field
    whole, end = tokenizer.decode(values, 96), tokenizer.decode(values[:, 16 - reach :], 4 * (8 + reach))
    torch.testing.assert_close(whole[..., 64:], end[..., 4 * reach :])


def test_a_published_config_file_sets_the_sizes_and_is_not_needed_again(tmp_path):
    path = tmp_path / "ettm1.json"
    table = {
        "block_hidden_size": 32,
        "num_residual_layers": 1,
        "res_hidden_size": 8,
        "embedding_dim": 16,
        "num_embeddings": 64,
        "commitment_cost": 0.5,
        "compression_factor": 8,
        "learning_rate": 1e-3,
        "num_training_updates": 15000,
    }
    path.write_text(json.dumps({"vqvae_config": table}))
    tokenizer = VQVAE(Spec(channels=1, length=48), config=str(path))
    assert (tokenizer.out.vocab_size, tokenizer.out.dim, tokenizer.factor) == (64, 16, 8)
    again = VQVAE(Spec(channels=1, length=48), **tokenizer.config_overrides)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in tokenizer.state_dict().items()
    }
    path.write_text(json.dumps({"num_embeddigns": 64}))
    with pytest.raises(OptionError, match="unknown num_embeddigns"):
        VQVAE(Spec(channels=1, length=48), config=str(path))
    with pytest.raises(OptionError, match=r"nowhere\.json"):
        VQVAE(Spec(channels=1, length=48), config="nowhere.json")
