"""Convolutions along time."""

import torch

from tstk.nn.convolution import InceptionModule, InceptionNetwork, MaskedBatchNorm


def make_padded(lengths=(9, 20, 14), channels=2, total=20, seed=0):
    """Series of several lengths, zero beyond their end, and where they are valid."""
    draw = torch.Generator().manual_seed(seed)
    valid = torch.arange(total)[None, None] < torch.tensor(lengths)[:, None, None]
    return torch.randn(len(lengths), channels, total, generator=draw) * valid - 0.0, valid


def test_batch_norm_over_whole_series_equals_torchs_with_its_gradients_and_running_statistics():
    x = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0))
    ours, reference = MaskedBatchNorm(3), torch.nn.BatchNorm1d(3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (y, statistics), z = ours(a, torch.ones(4, 1, 10)), reference(b)
    ours.update(statistics)
    torch.testing.assert_close(y, z)
    (y * x).square().sum().backward()
    (z * x).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    for name, value in reference.state_dict().items():
        if name != "num_batches_tracked":
            torch.testing.assert_close(ours.state_dict()[name], value)


def test_a_module_is_its_branches_side_by_side_normalised():
    x, valid = make_padded((6, 6, 6), channels=5, total=6)
    torch.manual_seed(0)
    module = InceptionModule(5, 8, (5, 3, 1)).eval()
    narrow = module.bottleneck(x)
    beside = torch.nn.functional.max_pool1d(x, 3, 1, 1)
    branches = torch.cat([*(branch(narrow) for branch in module.branches), module.pool_conv(beside)], 1)
    want = branches / (1 + module.norm.eps) ** 0.5
    torch.testing.assert_close(module(x, valid.float())[0], want.relu(), rtol=1e-4, atol=1e-5)


def test_more_padding_changes_neither_the_network_nor_its_statistics_while_training():
    x, valid = make_padded()
    more = torch.nn.functional.pad(x, (0, 7)), torch.nn.functional.pad(valid, (0, 7))
    torch.manual_seed(0)
    one = InceptionNetwork(2, 8, 4)
    other = InceptionNetwork(2, 8, 4)
    other.load_state_dict(one.state_dict())
    (a, statistics), (b, others) = one(x, valid), other(*more)
    torch.testing.assert_close(a, b[..., :20], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics, others, rtol=1e-4, atol=1e-6)


def test_running_statistics_that_were_moved_all_the_way_make_evaluation_equal_training():
    x, valid = make_padded()
    torch.manual_seed(0)
    network = InceptionNetwork(2, 8, 4)
    for norm in network.modules():
        if isinstance(norm, MaskedBatchNorm):
            norm.momentum = 1.0
    trained, statistics = network(x, valid)
    network.update(statistics)
    torch.testing.assert_close(network.eval()(x, valid)[0], trained, rtol=0.1, atol=0.1)  # n / (n - 1) apart


def test_the_features_of_a_series_do_not_depend_on_the_batch():
    x, valid = make_padded()
    network = InceptionNetwork(2, 8, 4).eval()
    together = network(x, valid)[0]
    for i, length in enumerate((9, 20, 14)):
        alone = network(x[i : i + 1, :, :length], valid[i : i + 1, :, :length])[0]
        torch.testing.assert_close(alone[0], together[i, :, :length], rtol=1e-4, atol=1e-5)
    assert together.masked_fill(valid, 0).eq(0).all()


def test_batch_norm_in_double_precision_moves_statistics_of_double_precision():
    x, valid = make_padded()
    network = InceptionNetwork(2, 8, 1).double()
    y, statistics = network(x.double(), valid)
    network.update(statistics)
    assert y.dtype == statistics.dtype == torch.float64
