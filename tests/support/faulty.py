"""Components with one fault each; `caught` is the check that must fail, `says` a pattern of its message."""

from typing import Literal

import torch
from torch import nn

from tstk.builtin.decoders.linear import Linear
from tstk.builtin.encoders.transformer import Transformer
from tstk.builtin.heads import linear
from tstk.builtin.losses.masked import Masked
from tstk.builtin.tokenizers.patch import Patch
from tstk.core.interfaces import Encoder
from tstk.core.types import Spec


class _P(Patch):
    """A patch tokenizer with a fault."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, window=4)


class Unplaced(_P):
    caught, says = "has_declared_shapes", r"pos is None; expected \[.*A = out.num_axes = 1"

    def forward(self, series):
        return super().forward(series).replace(pos=None)


class Wide(_P):
    caught, says = "has_declared_shapes", r"values is \[3, 8, 17\]; expected \[3, 8, 16\]"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=torch.nn.functional.pad(tokens.values, (0, 1)))


class Raising(_P):
    def forward(self, series):
        raise RuntimeError("a bug")


class Silent(_P):
    caught, says = "provides_as_declared", "sets .*'target_dim'.* which provides does not list"
    provides = frozenset({"stride"})


class Boastful(_P):
    caught, says = "provides_as_declared", r"provides \['vocab_size'\], but no option value"
    provides = frozenset({"target_dim", "stride", "vocab_size"})


class Backwards(_P):
    caught, says = "has_valid_positions", "does not increase"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(pos=tokens.pos.flip(1))


class Beyond(_P):
    caught, says = "has_valid_positions", "pos on axis 0 runs from 0 to 28; expected 0 to 8"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(pos=tokens.pos * 4)


class Credulous(_P):
    caught, says = "marks_observed_tokens", "8 valid tokens of a series without observations"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(valid=torch.ones_like(tokens.valid))


class Lossy(_P):
    caught, says = "inverts_targets", "is not the series: off by"

    def targets_to_series(self, targets, length):
        return super().targets_to_series(targets, length) * 0.9


class Sociable(_P):
    caught, says = "is_independent_of_batch", "a token changes with the rest of the batch"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=tokens.values - tokens.values.mean(0))


class Forgetful(_P):
    caught, says = "survives_save_and_load", "outputs change after saving"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.secret = torch.randn(16)

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=tokens.values + self.secret)


class Restless(_P):
    caught, says = "changes_only_its_own_state", "forward changed tokenizer.count"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, series):
        self.count += 1
        return super().forward(series)


class Stiff(_P):
    caught, says = "passes_gradcheck", "differs from finite differences"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=tokens.values + (tokens.values * 3).detach())


class Coarse(_P):
    caught, says = "passes_gradcheck", "float64 in, torch.float32 out"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.replace(values=tokens.values.float())


class Mute(Patch):
    """A patch tokenizer that does not explain its option."""

    caught, says = "documents_its_options", "no line .* for the options flavour"

    def __init__(self, spec: Spec, *, flavour: Literal["a", "b"] = "a") -> None:
        super().__init__(spec, dim=16, window=4)


class Loose(Patch):
    """A patch tokenizer with a second positional argument."""

    caught, says = "documents_its_options", r"expected \(spec, \*, ...\)"

    def __init__(self, input_spec: Spec, size=4) -> None:
        super().__init__(input_spec, dim=16, window=size)


class _E(Transformer):
    """An encoder with a fault."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, depth=1, heads=2, dropout=0.0)


class Idle(_E):
    caught, says = "has_finite_gradients", "encoder.spare got no gradient"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.spare = nn.Parameter(torch.zeros(3))


class Faint(Transformer):
    """Positions as small as BERT's beside tokens of time series."""

    caught, says = "has_noticeable_positions", "the RMS of its position embeddings is 0.0.* of that of the tokens"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, depth=1, heads=2, dropout=0.0, position_std=0.02)


class Nosy(_E):
    caught, says = "ignores_invalid_tokens", "changes with the contents of an invalid one"

    def forward(self, tokens):
        return super().forward(tokens.replace(valid=torch.ones_like(tokens.valid))).replace(valid=tokens.valid)


class Shuffling(_E):
    caught, says = "preserves_tokens", "expected the same 16 tokens in the same order"

    def forward(self, tokens):
        return super().forward(tokens).map(lambda t: t.flip(1))


class Sequential(Encoder):
    """Cumulative sums."""

    caught, says = "is_permutation_equivariant", "depend on their order"

    def forward(self, tokens):
        where = tokens.valid[..., None]
        return tokens.replace(values=(tokens.values * where).cumsum(1) * where)


class Prophetic(Encoder):
    """Declares itself causal, and is not."""

    caught, says = "is_causal_as_declared", "earlier tokens change with later ones"
    provides = frozenset({"causal"})

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.replace(causal=True)

    def forward(self, tokens):
        where = tokens.valid[..., None]
        return tokens.replace(values=tokens.values + (tokens.values * where).sum(1, keepdim=True))


class Peeking(Linear):
    caught, says = "ignores_query_contents", "predictions change with queries.values"

    def forward(self, encoded, queries, pos_embed):
        return super().forward(encoded, queries, pos_embed) + queries.values.sum(-1, keepdim=True)


class Mixing(Linear):
    caught, says = "attends_across_as_declared", "attends_across = False, but a prediction changes"

    def forward(self, encoded, queries, pos_embed):
        return super().forward(encoded, queries, pos_embed) + encoded.values.mean((1, 2), keepdim=True)


class Padded(linear.Linear):
    caught, says = "ignores_padding", "changes with"

    def forward(self, tokens):
        return self.classify(tokens.values.mean(1))


class Demanding(linear.Linear):
    """Needs a field that no head receives."""

    needs = ("num_outputs", "num_prefix_tokens", "vocab_size")


class Inventive(Masked):
    caught, says = "splits_valid_tokens", "visible tokens differ from those of the series"

    def split(self, tokens, rng):
        visible, queries = super().split(tokens, rng)
        return visible.replace(values=visible.values + 1), queries


class Retentive(_E):
    caught, says = "keeps_no_graph", "after a step, last, records are part of a graph"

    def forward(self, tokens):
        encoded = super().forward(tokens)
        self.last, self.records = encoded.values, {"tokens": [encoded]}
        return encoded


class Contrary(Masked):
    caught, says = "prefers_perfect_predictions", "the loss of perfect predictions is"

    def forward(self, step_output):
        return {"contrary": -super().forward(step_output)["masked"]}


class Meddling(Masked):
    caught, says = "changes_only_its_own_state", "after_step changed encoder.*belong to other components"

    def bind(self, pipeline):
        self._other = [pipeline.encoder]

    def after_step(self, step_outputs):
        for p in self._other[0].parameters():
            p.add_(1.0)


FAULTY = [c for c in list(globals().values()) if isinstance(c, type) and "caught" in vars(c)]
