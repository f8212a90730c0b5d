"""AdamW as torch has it, without torch's compiler."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, whose methods do not import `torch._dynamo`.

    torch wraps them for those who compile an optimizer, and each wrapper imports the compiler (a second, and a hundred
    megabytes) when it is first called. What is compiled here are parts of the pipeline, never the optimizer.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    _step = unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; see `torch.optim.AdamW.step`."""
        return self._step(closure)
