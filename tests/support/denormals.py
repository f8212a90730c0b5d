"""Print how two threads treat denormal numbers during training: started during it, and started before."""

import subprocess
import sys

import torch

from tstk.training.devices import flush_denormals

if len(sys.argv) == 1:
    for when in ("during", "before"):
        print(subprocess.run([sys.executable, __file__, when], capture_output=True, text=True, check=True).stdout)
else:
    count = 2 << 15
    tiny = torch.empty(count, dtype=torch.int32)
    tiny.numpy()[:] = 1 << 20  # the bits of a denormal number, written by this thread alone
    out = torch.empty(count)
    if sys.argv[1] == "before":
        torch.mul(tiny.view(torch.float32), 2.0, out=out)
    with flush_denormals():
        torch.mul(tiny.view(torch.float32), 0.5, out=out)
    halves = out.view(torch.int32).numpy().reshape(2, -1)
    print(",".join(str(int((half != 0).sum())) for half in halves))
