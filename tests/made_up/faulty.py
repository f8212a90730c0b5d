"""Components with one fault each; `caught` names the check that must fail, `says` what it must say."""

from typing import Literal

import torch
from torch import nn

from tstk.builtin.decoders.linear import Linear
from tstk.builtin.encoders.transformer import Transformer
from tstk.builtin.heads.linear import Linear as LinearHead
from tstk.builtin.losses.masked import Masked
from tstk.builtin.tokenizers.patch import Patch
from tstk.core.interfaces import Encoder
from tstk.core.types import Spec


class _P(Patch):
    """A patch tokenizer with a fault."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, window=4)


class Unplaced(_P):
    caught, says = "keeps_the_promised_shapes", r"pos is None; expected \[.*A = out.axes = 1"

    def forward(self, series):
        return super().forward(series).but(pos=None)


class Wide(_P):
    caught, says = "keeps_the_promised_shapes", r"values is \[3, 8, 17\]; expected \[3, 8, 16\]"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(values=torch.nn.functional.pad(tokens.values, (0, 1)))


class Silent(_P):
    caught, says = "provides_what_it_says", "sets .*'target'.* without saying so"
    provides = frozenset({"step"})


class Boastful(_P):
    caught, says = "provides_what_it_says", r"provides \['vocab'\], but no setting"
    provides = frozenset({"target", "step", "vocab"})


class Backwards(_P):
    caught, says = "places_its_tokens", "does not rise"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(pos=tokens.pos.flip(1))


class Beyond(_P):
    caught, says = "places_its_tokens", "pos on axis 0 runs from 0 to 28; expected 0 to 8"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(pos=tokens.pos * 4)


class Credulous(_P):
    caught, says = "marks_what_was_observed", "8 valid tokens of a series nobody observed"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(valid=torch.ones_like(tokens.valid))


class Lossy(_P):
    caught, says = "inverts", "is not the series: off by"

    def invert(self, answer, length):
        return super().invert(answer, length) * 0.9


class Sociable(_P):
    caught, says = "serves_one_series", "a token changes with its companions"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(values=tokens.values - tokens.values.mean(0))


class Forgetful(_P):
    caught, says = "survives_a_checkpoint", "answers change when saved"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.secret = torch.randn(16)

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(values=tokens.values + self.secret)


class Restless(_P):
    caught, says = "moves_only_itself", "forward changed tokenizer.count"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, series):
        self.count += 1
        return super().forward(series)


class Stiff(_P):
    caught, says = "differentiates", "not that of finite differences"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(values=tokens.values + (tokens.values * 3).detach())


class Coarse(_P):
    caught, says = "differentiates", "float64 in, torch.float32 out"

    def forward(self, series):
        tokens = super().forward(series)
        return tokens.but(values=tokens.values.float())


class Mute(Patch):
    """A patch tokenizer that does not explain its option."""

    caught, says = "explains_its_options", "no line .* for the options flavour"

    def __init__(self, spec: Spec, *, flavour: Literal["a", "b"] = "a") -> None:
        super().__init__(spec, dim=16, window=4)


class Loose(Patch):
    """A patch tokenizer with a second positional argument."""

    caught, says = "explains_its_options", r"expected \(spec, \*, ...\)"

    def __init__(self, spec: Spec, size=4) -> None:
        super().__init__(spec, dim=16, window=size)


class _E(Transformer):
    """An encoder with a fault."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, depth=1, heads=2, dropout=0.0)


class Idle(_E):
    caught, says = "learns", "encoder.spare got no gradient"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.spare = nn.Parameter(torch.zeros(3))


class Faint(Transformer):
    """Positions as small as BERT's beside tokens of time series."""

    caught, says = "shows_positions", "its positions start at 0.0.* of the tokens"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, dim=16, depth=1, heads=2, dropout=0.0, position_std=0.02)


class Nosy(_E):
    caught, says = "ignores_invalid_tokens", "changes with the content of an invalid one"

    def forward(self, tokens):
        return super().forward(tokens.but(valid=torch.ones_like(tokens.valid))).but(valid=tokens.valid)


class Shuffling(_E):
    caught, says = "keeps_its_tokens", "expected the same 16 tokens in the same order"

    def forward(self, tokens):
        return super().forward(tokens).map(lambda t: t.flip(1))


class Sequential(Encoder):
    """Cumulative sums."""

    caught, says = "permutes", "depend on the order in which they come"

    def forward(self, tokens):
        where = tokens.valid[..., None]
        return tokens.but(values=(tokens.values * where).cumsum(1) * where)


class Prophetic(Encoder):
    """Says it is causal, and looks ahead."""

    caught, says = "is_causal_if_it_says_so", "earlier tokens change with later ones"
    provides = frozenset({"causal"})

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.but(causal=True)

    def forward(self, tokens):
        where = tokens.valid[..., None]
        return tokens.but(values=tokens.values + (tokens.values * where).sum(1, keepdim=True))


class Peeking(Linear):
    caught, says = "is_blind_to_the_answer", "answers change with asked.values"

    def forward(self, encoded, asked, place):
        return super().forward(encoded, asked, place) + asked.values.sum(-1, keepdim=True)


class Mixing(Linear):
    caught, says = "mixes_as_it_says", "mixes = False, but an answer changes"

    def forward(self, encoded, asked, place):
        return super().forward(encoded, asked, place) + encoded.values.mean((1, 2), keepdim=True)


class Padded(LinearHead):
    caught, says = "ignores_padding", "changes with"

    def forward(self, tokens):
        return self.classify(tokens.values.mean(1))


class Demanding(LinearHead):
    """Needs what no head is given."""

    needs = ("classes", "prefix", "vocab")


class Inventive(Masked):
    caught, says = "splits_what_it_was_given", "seen tokens are not those of the series"

    def split(self, tokens, draws):
        seen, asked = super().split(tokens, draws)
        return seen.but(values=seen.values + 1), asked


class Contrary(Masked):
    caught, says = "prefers_the_truth", "a perfect answer costs"

    def forward(self, flow):
        return {"contrary": -super().forward(flow)["masked"]}


class Meddling(Masked):
    caught, says = "moves_only_itself", "after_step changed encoder.*belong to other parts"

    def bind(self, pipeline):
        self._other = [pipeline.encoder]

    def after_step(self, flows):
        for p in self._other[0].parameters():
            p.add_(1.0)


FAULTY = [c for c in list(globals().values()) if isinstance(c, type) and "caught" in vars(c)]
