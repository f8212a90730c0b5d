"""Checkpoints of Ti-MAE Lightning are refused, with the reason."""

import pytest
import torch

import tstk
from tstk.errors import CheckpointError


def test_a_checkpoint_is_refused_with_the_reason_and_what_to_do(tmp_path):
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"multiply scores by the width of a head.*--config timae/published"):
        tstk.import_run("timae", tmp_path / "x.ckpt", tmp_path / "run")
    assert not (tmp_path / "run").exists()
