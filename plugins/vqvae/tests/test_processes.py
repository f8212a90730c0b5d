"""Two processes that train on different series keep the same weights and the same codebook."""

import os
import subprocess
import sys

import pytest
import torch

import tstk

STEPS = 200


def one_of_two(rank, folder):
    """Train one of two processes and save its weights and codebook."""
    from tstk_plugins_vqvae.tokenizer import VQVAE

    from tstk.builtin.decoders.own import Own
    from tstk.builtin.encoders.identity import Identity
    from tstk.builtin.losses.reconstruct import Reconstruct
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Series, Spec

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)  # weights are made equal by DDP, codebooks by their first step
    spec = Spec(channels=1, length=32)
    tokenizer = VQVAE(spec, codes=12, dim=4, hidden=8, res_hidden=4, dead_code_threshold=0.5)
    decoder = Own(tokenizer.out)
    decoder.bind_tokenizer(tokenizer)
    pipeline = Pipeline(spec, tokenizer, Identity(tokenizer.out), Reconstruct(tokenizer.out), decoder)
    model = torch.nn.parallel.DistributedDataParallel(pipeline, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(pipeline.parameters(), lr=3e-3)
    draw = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(4 + 3 * rank, 1, 32, generator=draw).cumsum(-1) / 4
        step_output = model(Series(x))
        optimizer.zero_grad()
        step_output.loss.backward()
        optimizer.step()
        pipeline.after_step([step_output])
        losses.append(float(step_output.loss.detach()))
    torch.save({"state": pipeline.state_dict(), "losses": losses}, f"{folder}/{rank}.pt")
    os._exit(0)  # or a thread of gloo, which the wrapped model keeps, may abort the process


@pytest.mark.slow
def test_codebook_and_weights_of_two_processes_are_equal_after_200_steps(tmp_path):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    root = os.path.dirname(os.path.dirname(os.path.abspath(tstk.__file__)))
    paths = os.pathsep.join([root, here, *filter(None, [os.environ.get("PYTHONPATH")])])
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            _, told = process.communicate(timeout=600)
            assert process.returncode == 0, told
    finally:
        for process in started:
            process.kill()
            process.wait()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["state"].keys() == second["state"].keys()
    del first["state"]["tokenizer.codebook.next_seed"]  # of the seed; those of the first process count for both
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    for found in (first, second):
        assert sum(found["losses"][-20:]) < 0.7 * sum(found["losses"][:20])


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), sys.argv[2])
