"""A growing cache equals concatenation."""

import torch

from tstk.nn.cache import KVCache


def pieces(count, length=1, seed=0, grad=False):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, length, 4, generator=draw, requires_grad=grad) for _ in range(count)]


def test_what_has_grown_is_all_pieces_in_their_order():
    parts = pieces(100)
    kept = KVCache.from_tensor(parts[0])
    for part in parts[1:]:
        kept = kept.append(part)
    assert torch.equal(kept.values, torch.cat(parts, 2))


def test_two_that_grow_from_one_do_not_disturb_each_other_or_it():
    start = KVCache.from_tensor(torch.cat(pieces(5), 2)).append(*pieces(1, seed=1))
    before = start.values.clone()
    one, two = start.append(*pieces(1, seed=2)), start.append(*pieces(1, seed=3))
    one, two = one.append(*pieces(1, seed=4)), two.append(*pieces(1, seed=5))
    assert torch.equal(start.values, before)
    assert torch.equal(one.values, torch.cat([before, *pieces(1, seed=2), *pieces(1, seed=4)], 2))
    assert torch.equal(two.values, torch.cat([before, *pieces(1, seed=3), *pieces(1, seed=5)], 2))


def test_growing_copies_seldom():
    kept, buffers = KVCache.from_tensor(pieces(1)[0]), set()
    for part in pieces(99):
        kept = kept.append(part)
        buffers.add(kept.buffer.data_ptr())
    assert len(buffers) <= 4


def test_gradients_reach_every_piece():
    parts = pieces(4, grad=True)
    kept = KVCache.from_tensor(parts[0])
    for part in parts[1:]:
        kept = kept.append(part)
    kept.values.square().sum().backward()
    for part in parts:
        torch.testing.assert_close(part.grad, 2 * part.detach())


def test_repeating_stacks_the_batch():
    kept = KVCache.from_tensor(torch.cat(pieces(3), 2)).append(*pieces(1, seed=1))
    assert torch.equal(kept.repeat(2).values, torch.cat([kept.values, kept.values]))
