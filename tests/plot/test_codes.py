"""Codes that look alike are drawn as one."""

import torch

from tstk.plot.codes import merge_similar_codes


def test_codes_that_look_alike_join_the_most_frequent():
    time = torch.linspace(0, 6.28, 50)
    shapes = torch.stack([time.sin(), time.cos(), time.sin() + 0.01, time.cos() * 1.02, -time])
    found = merge_similar_codes(shapes, torch.tensor([5.0, 1.0, 2.0, 2.0, 0.0]), tolerance=0.1)
    assert [code.ids for code in found] == [[0, 2], [3, 1]]
    assert [round(code.frequency, 2) for code in found] == [0.7, 0.3]
    apart = merge_similar_codes(shapes, torch.tensor([5.0, 1.0, 2.0, 2.0, 0.0]))
    assert [code.ids for code in apart] == [[0], [2], [3], [1]]
