"""The five interfaces: Tokenizer, Encoder, Decoder, Head, Loss.

Static mirrors dynamic: a component gets one positional argument, the Spec of what it will receive, and
exposes `self.out`, the Spec of what it emits. Positional is wired, keyword-only is chosen: every option a
user has is a keyword-only parameter with a literal default, and the command line is derived from those.

Nothing is stored on `self` during `forward`: data flow, modules do not remember. State moves in
`after_step` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import NeedsError
from tstk.plugins.registry import registry

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.rng import Draws
    from tstk.data.datasets import Part
    from tstk.report.context import Known
    from tstk.report.page import Section

NEEDS = {
    "classes": "class labels",
    "horizon": "a horizon to forecast",
    "vocab": "discrete tokens (vocab)",
    "causal": "an encoder in which no token sees a later one (causal)",
    "step": "tokens laid out in time (step)",
    "target": "tokens that can be asked about (target)",
    "prefix": "a CLS token (prefix)",
    "ordered": "ordered tokens",
}
DATA_NEEDS = {
    "classes": "name their column with --label, other data with --data, or forecast with --head forecast",
    "horizon": "name a table with dates with --data, or classify with --head linear",
}
"""What only data can provide, and the remedy."""


class Slot(nn.Module):
    """What all five share.

    Subclasses call `super().__init__(spec)` first, which checks `needs`, and then set `self.out`.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of the Spec that must be set; the same words everywhere."""

    transient: ClassVar[tuple[str, ...]] = ()
    """Sub-paths that live only while training, such as a teacher: not part of the trained model's file."""

    out: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        for what in self.needs:
            if getattr(spec, what) in (None, False, 0):
                raise NeedsError(self.refusal(what))
        self.spec = spec
        self.out = spec
        self.rebuild: dict[str, Any] = {}
        """Options that replace the given ones when a checkpoint records how to build this again."""

    @classmethod
    def called(cls) -> str:
        """This component as a user knows it: kind and registered name."""
        entry = registry().entry_of(cls)
        return f"{cls.kind} {entry.name!r}" if entry else f"{cls.kind} {cls.__name__}"

    @classmethod
    def refusal(cls, what: str) -> str:
        """The sentence that says what is missing and who could provide it."""
        if what in DATA_NEEDS:
            return f"{cls.called()} needs {NEEDS[what]}, and the data have none; {DATA_NEEDS[what]}"
        names = [f"{k} {n!r}" for k in ("tokenizer", "encoder") for n in registry().providers(k, what)]
        text = f"{cls.called()} needs {NEEDS.get(what, what)}, which nothing before it provides."
        return text + (f" These can provide it: {', '.join(names)}." if names else "")

    def warm_start(self) -> None:
        """Read weights from outside (a pretrained folder). Called once after a pipeline is built anew, after
        every initialisation; never when a run is loaded."""

    def start(self, pipeline: Pipeline, train: Part) -> str:
        """Set initial weights by the training series. Called once before the first step, after those of the slots
        before it; never for weights of another run.

        Returns:
            a line for the user; empty if nothing was done
        """
        return ""

    def freezes(self) -> tuple[str, ...]:
        """Sub-paths of this slot (modules or parameters) that its own options keep from learning."""
        return ()

    def rates(self) -> dict[str, float]:
        """Learning rates of its own: sub-path -> rate, for parameters that must not take the run's."""
        return {}

    def bind(self, pipeline: Pipeline) -> None:
        """Keep a reference to other parts outside the module tree. Called after weights are in place."""

    def after_step(self, flows: list[Flow]) -> None:
        """Move state that gradients do not move: teachers, codebooks. Called once per optimizer step with
        the flows of its micro-batches; skipped while this slot is frozen."""

    def section(self, known: Known) -> Section | None:
        """What this part has to show in the report of its run, if anything; `tstk.report.page` draws."""
        return None

    def load(self, state: Mapping[str, Tensor], old: Spec) -> None:
        """Take trained weights that were made under the Spec `old`; strict.

        Overridden where something depends on the length, such as a position table.
        """
        self.load_state_dict(dict(state), strict=True)


class Tokenizer(Slot):
    """Makes Tokens from a Series. Unobserved samples arrive as zeros; a token is valid if it has an observed one."""

    kind = "tokenizer"
    invertible: ClassVar[bool] = False
    """`invert` exists."""
    any_length: ClassVar[bool] = False
    """Series may be longer than `spec.length`."""
    synthesises: ClassVar[bool] = False
    """`decode` exists."""
    reach: int | None = None
    """Tokens before and after its own that a sample of `decode` depends on; None for all."""

    def forward(self, series: Series) -> Tokens:
        """Series of [B, C, T] -> Tokens of [B, N, D]."""
        raise NotImplementedError

    def invert(self, answer: Tensor, length: int) -> Tensor:
        """From targets of a whole grid back to samples: [B, N, K] -> [B, C, length]."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """Codes to token values: [B, N] long -> [B, N, D]. Exists if `out.vocab` is set."""
        raise NotImplementedError

    def decode(self, values: Tensor, length: int) -> Tensor:
        """Token values of a whole grid to samples: [B, N, D] -> [B, C, length]."""
        raise NotImplementedError


class Encoder(Slot):
    """Maps Tokens to Tokens: the same N in the same order."""

    kind = "encoder"

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of [B, N, spec.dim] -> Tokens of [B, N, out.dim], perhaps with a prefix."""
        raise NotImplementedError

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return contents and positions whose sum enters the first layer, [B, N, D] each, contents zero where invalid.

        `tstk train --dry-run` prints how large the one is beside the other.
        """
        return tokens.values.masked_fill(~tokens.valid[..., None], 0), self.place(tokens)

    def place(self, tokens: Tokens) -> Tensor:
        """What this encoder adds to a token for its absolute position, [B, N, out.dim]; zeros if nothing."""
        return tokens.values.new_zeros(*tokens.index.shape, self.out.dim or 0)

    def extend(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those already in `state`, without encoding the latter again.
        Causal encoders may offer it; the result equals encoding everything at once."""
        raise NotImplementedError(f"{self.called()} cannot be extended")


Place = Callable[[Tokens], Tensor]


class Decoder(Slot):
    """Answers per token. It may read where a token is asked, never what it contains."""

    kind = "decoder"
    mixes: ClassVar[bool] = False
    """An answer looks at other positions than its own."""
    whole: ClassVar[bool] = False
    """The answer is a series [B, C, T], not one row per token."""

    def meet(self, tokenizer: Tokenizer) -> None:
        """Learn which tokenizer made the tokens, and refuse it (NeedsError); called while the pipeline is built."""

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """Answers [B, M, out.dim] at `asked`; out.dim is `spec.target`, or the decoder's own width if that is None."""
        raise NotImplementedError


class Head(Slot):
    """Answers per series."""

    kind = "head"
    per_channel: ClassVar[bool] = False
    """With independent channels, this head answers each channel on its own."""

    def forward(self, tokens: Tokens) -> Tensor:
        """[B, classes], [B, C, horizon] or [B, E]."""
        raise NotImplementedError

    def start_at_zero(self) -> None:
        """Set the last layer to zero, so that `forward` returns zeros: for forecasts that start from a linear map."""
        raise NeedsError(f"{self.called()} cannot start from a linear map; use --head forecast, or --linear-map none")


class Loss(Slot):
    """Poses the question (what may be seen, what is asked) and marks the answer."""

    kind = "loss"
    reads: ClassVar[str] = "decoder"
    """What it marks: the answers of the `decoder` (per token) or the `head` (per series), or the `encoder`'s tokens."""
    decoder: ClassVar[str] = "linear"
    """The decoder it is used with when nothing is said."""
    series_answers: ClassVar[bool] = False
    """It can mark a decoder that answers with a whole series."""
    blanks: bool = False
    """It asks for the future, so the tokenizer must not see it."""
    foretells: ClassVar[bool] = False
    """`foretell` exists."""
    samples: int | None = None
    """Futures that `foretell` draws when nothing is said; 0 for a single one without chance, None if it cannot draw."""

    def views(self, series: Series, draws: Draws) -> Series:
        """What the tokenizer gets: the batch itself, unless overridden; it may be several views of each series.

        Args:
            series: raw, [B, C, T]
            draws: belong to the samples, as those of `split`
        """
        return series

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """What the encoder may see and what is asked; both taken from `tokens`. All of it, unless overridden."""
        return tokens, tokens

    def attach(self, decoder: Decoder) -> None:
        """Meet the decoder: refuse it (NeedsError), or build output layers for answers of `decoder.out.dim`.
        Called while the pipeline is built, before any weights are read."""

    def reveal(self, encoded: Tokens, asked: Tokens) -> Tokens:
        """Which encoded tokens the decoder is given: all of them, unless overridden."""
        return encoded

    def foretell(self, flow: Flow, horizon: int, samples: int | None = None) -> Tensor:
        """S futures of each series: [S, B, C, horizon]; as many as `samples`, if it can draw.

        Of `flow.tokens`, those that end after the context tell nothing. A loss that also `blanks` gets the answers to
        its question, in training too, where `flow.output` comes from here.
        """
        raise NotImplementedError

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Named scalars; their sum, with the penalties in `Tokens.aux`, is minimised, and each is logged.
        What is only to be watched goes into `flow.logs`."""
        raise NotImplementedError
