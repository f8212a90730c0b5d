"""The five interfaces: Tokenizer, Encoder, Decoder, Head, Loss; and what they see of the pipeline that connects them.

A component takes one positional argument, the Spec of its input, and exposes `self.out`, the Spec of its output. Every
option of a user is a keyword-only parameter with a literal default; the command line is derived from those.

Nothing is stored on `self` during `forward`. Only `after_step` changes state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from tstk.core.standardization import StandardizedModel
from tstk.core.task import TARGET_DESCRIPTIONS, TargetType, Task, find_task, get_task
from tstk.core.types import Series, Spec, Split, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

if TYPE_CHECKING:
    from tstk.core.rng import SampleRNG

NEED_DESCRIPTIONS = {
    "horizon": "a horizon to forecast",
    "vocab_size": "discrete tokens (vocab_size)",
    "causal": "a causal encoder (causal)",
    "stride": "tokens at regular positions in time (stride)",
    "target_dim": "tokens that have a target (target_dim)",
    "num_prefix_tokens": "a CLS token (num_prefix_tokens)",
    "ordered": "ordered tokens",
}
HORIZON_REMEDY = (
    "name a table with dates with --data, give --horizon 24 to forecast each series, or classify with --head linear"
)
"""Remedy for a missing horizon, for messages."""


class Slot(nn.Module):
    """Base class of the five component types.

    Subclasses call `super().__init__(spec)` first, which checks `needs`, and then set `self.out`.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of the input Spec that must be set."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Fields of `out` that it sets, if no plugin registers the class; an `Entry` states its own."""

    non_persistent: ClassVar[tuple[str, ...]] = ()
    """Sub-paths that exist only during training, such as a teacher, and are not saved with the model."""

    target_types: ClassVar[tuple[TargetType, ...]] = ()
    """Types of targets that a head or a loss serves (`Task.target_type`); empty if it depends on none."""

    source_options: ClassVar[Mapping[str, str | None]] = {}
    """Options that name sources of weights -> what replaces them in a loaded run, such as `{"pretrained": None}`."""

    out: Spec

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.check_task(spec)
        for need in self.needs:
            if getattr(spec, need) in (None, False, 0):
                raise IncompatibleError(self.missing_message(need))
        self.spec = spec
        self.out = spec
        self.config_overrides: dict[str, Any] = {}
        """Options that a checkpoint records instead of those given, to rebuild this component."""

    @classmethod
    def check_task(cls, spec: Spec) -> None:
        """Raise IncompatibleError if the data are for a task whose targets this component does not serve."""
        if spec.task is None or not cls.target_types:
            return
        task = get_task(spec.task)
        if task.target_type in cls.target_types:
            return
        names = [
            entry.name
            for entry in get_registry().list_entries(cls.kind)
            if task.target_type in read_signature(entry.target).class_attrs.get("target_types", ())
        ]
        default = getattr(task, f"default_{cls.kind}")
        names.sort(key=lambda name: name != default)
        remedy = f"use --{cls.kind} {' or '.join(names[:3])}" if names else f"no installed {cls.kind} is for it"
        *others, last = (TARGET_DESCRIPTIONS[t] for t in cls.target_types)
        served = " and ".join(filter(None, (", ".join(others), last)))
        remedy += f", or data with {get_task(find_task(cls.target_types[0])).requirement}"
        raise IncompatibleError(f"{cls.display_name()} is for {served}, and these data are for {spec.task}; {remedy}")

    @classmethod
    def display_name(cls) -> str:
        """Return kind and registered name, for messages."""
        entry = get_registry().find_entry_of(cls)
        return f"{cls.kind} {entry.name!r}" if entry else f"{cls.kind} {cls.__name__}"

    @classmethod
    def missing_message(cls, need: str) -> str:
        """Return a message that names a missing Spec field and the components that provide it."""
        name = cls.display_name()
        if need == "horizon":
            return f"{name} needs {NEED_DESCRIPTIONS[need]}, and the data have none; {HORIZON_REMEDY}"
        if need == "num_outputs":
            task = get_task(find_task(cls.target_types[0] if cls.target_types else "class"))
            return f"{name} needs {task.requirement}, and the data have none; {task.remedy}"
        providers = [f"{k} {n!r}" for k in ("tokenizer", "encoder") for n in get_registry().find_providers(k, need)]
        text = f"{name} needs {NEED_DESCRIPTIONS.get(need, need)}, which no component before it provides."
        return text + (f" These can provide it: {', '.join(providers)}." if providers else "")

    def init_from_pretrained(self) -> None:
        """Load pretrained weights from outside, such as a Hugging Face folder.

        Called once for a new pipeline, after all other initialization, without gradients; never when a run is loaded.
        """

    def init_from_data(self, pipeline: BasePipeline, train_split: Split) -> str:
        """Initialize weights from the training series.

        Called once before the first step, in the order of the slots; never for weights of another run.

        Returns:
            a line for the user; empty if nothing was done
        """
        return ""

    def frozen_paths(self) -> tuple[str, ...]:
        """Return the sub-paths (modules or parameters) that the options of this component freeze."""
        return ()

    def lr_overrides(self) -> dict[str, float]:
        """Return learning rates that replace that of the run: sub-path -> rate."""
        return {}

    def bind(self, pipeline: BasePipeline) -> None:
        """Keep references to other components, outside the module tree.

        Called once all weights are loaded, and again when low-rank updates (`--lora`) have been added to the encoder.
        """

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update state that has no gradient, such as a teacher or a codebook.

        Called once per optimizer step with the outputs of its micro-batches; skipped while this slot is frozen.
        """

    def load_pretrained(self, state: Mapping[str, Tensor], old_spec: Spec) -> None:
        """Load weights that were trained with the input Spec `old_spec`; strict.

        Override where a shape depends on the length of the series, such as a position table.
        """
        self.load_state_dict(dict(state), strict=True)


class Tokenizer(Slot):
    """Map from Series to Tokens. Unobserved samples are zeros; a token is valid if any of its samples is observed."""

    kind = "tokenizer"
    invertible: ClassVar[bool] = False
    """Whether `targets_to_series` is implemented."""
    accepts_any_length: ClassVar[bool] = False
    """Whether series may be longer than `spec.length`."""
    has_decoder: ClassVar[bool] = False
    """Whether `decode` is implemented."""
    receptive_field: int | None = None
    """Number of neighbouring tokens on each side that a sample of `decode` depends on; None for all."""

    def forward(self, series: Series) -> Tokens:
        """Convert a series [B, C, T] to tokens [B, N, D]."""
        raise NotImplementedError

    def targets_to_series(self, targets: Tensor, length: int) -> Tensor:
        """Convert the targets of a whole grid to samples: [B, N, K] -> [B, C, length]."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """Convert codes to token values: [B, N] long -> [B, N, D]. Implemented if `out.vocab_size` is set."""
        raise NotImplementedError

    def decode(self, values: Tensor, length: int) -> Tensor:
        """Decode the token values of a whole grid to samples: [B, N, D] -> [B, C, length]."""
        raise NotImplementedError

    def token_curves(self, tokens: Tokens, length: int) -> Tensor | None:
        """Return the samples [B, N, length] that each token stands for, NaN elsewhere; None if tokens are patches.

        For figures, of a tokenizer whose tokens cover different samples in each series.
        """
        return None

    def token_image(self, tokens: Tokens) -> tuple[Tensor, str, list[str]] | None:
        """Return the coefficients of which tokens are patches, [B, C, R, T], and what the R rows are, with their names.

        None if tokens are patches of the series itself.

        For figures, of a tokenizer that transforms series before it cuts them into tokens.
        """
        return None


class Encoder(Slot):
    """Map from Tokens to as many Tokens in the same order."""

    kind = "encoder"

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to tokens [B, N, out.dim], with a prefix if `out.num_prefix_tokens` is set."""
        raise NotImplementedError

    def pretrained_paths(self) -> tuple[str, ...]:
        """Return the sub-paths (modules or parameters) that `init_from_pretrained` fills; all parameters by default.

        `--lora` freezes these, and trains in full what a checkpoint lacks, such as a projection to its width.
        """
        return tuple(name for name, _ in self.named_parameters())

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return content and position embeddings, [B, N, D] each, whose sum enters the first layer.

        The content of invalid tokens is zero. `tstk train --dry-run` prints the ratio of their norms.
        """
        return tokens.values.masked_fill(~tokens.valid[..., None], 0), self.pos_embed(tokens)

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return the absolute position embedding that this encoder adds, [B, N, out.dim]; zeros if it adds none."""
        return tokens.values.new_zeros(*tokens.grid_index.shape, self.out.dim or 0)

    def forward_incremental(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those in `state` and return them with the new state.

        Optional, for causal encoders. The result equals that of encoding all tokens at once.
        """
        raise NotImplementedError(f"{self.display_name()} does not support incremental encoding")


PosEmbedFn = Callable[[Tokens], Tensor]


class Decoder(Slot):
    """Predictor per queried token. It may use the positions of the queries, never their content."""

    kind = "decoder"
    default_loss: ClassVar[str] = "masked"
    """Name of the loss to train with if neither a loss nor a head is selected."""
    attends_across: ClassVar[bool] = False
    """Whether a prediction depends on encoded tokens at other positions."""
    predicts_series: ClassVar[bool] = False
    """Whether the output is a series [B, C, T] rather than one row per token."""

    def bind_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Inspect the tokenizer, and raise IncompatibleError if it does not fit. Called while the pipeline is built."""

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return predictions [B, M, out.dim] at `queries`.

        `out.dim` is `spec.target_dim`, or the width of the decoder if that is None.
        """
        raise NotImplementedError


class Head(Slot):
    """Predictor per series, or per sample."""

    kind = "head"
    default_loss: ClassVar[str] = "cross-entropy"
    """Name of the loss to train with if none is selected."""
    per_channel: ClassVar[bool] = False
    """Whether, with independent channels, the head is applied to each channel separately."""

    def forward(self, tokens: Tokens) -> Tensor:
        """Return [B, num_outputs], [B, C, horizon], [B, E], or [B, num_outputs, spec.length] for a class per sample."""
        raise NotImplementedError

    def zero_init_last_layer(self) -> None:
        """Set the last layer to zero, so that `forward` returns zeros and forecasts start from the linear map."""
        raise IncompatibleError(
            f"{self.display_name()} cannot start from a linear map; use --head forecast, or --linear-map none"
        )


class Loss(Slot):
    """Training objective: splits the tokens into visible tokens and queries, and scores the predictions."""

    kind = "loss"
    consumes: ClassVar[str] = "decoder"
    """Whose output it scores: `decoder` (per token), `head` (per series) or `encoder` (its tokens)."""
    default_decoder: ClassVar[str] = "linear"
    """Name of the decoder to use if none is selected."""
    default_head: ClassVar[str] = "linear"
    """Name of the head to use if none is selected."""
    default_tokenizer: ClassVar[str] = "patch"
    """Name of the tokenizer to use if none is selected."""
    accepts_series: ClassVar[bool] = False
    """Whether it can score a decoder that predicts series."""
    weights_series: ClassVar[bool] = False
    """Whether it multiplies the loss of each series by its weight, `StepOutput.weight`."""
    masks_future: bool = False
    """Whether it queries the future, which the tokenizer must then not see."""
    can_forecast: ClassVar[bool] = False
    """Whether `forecast` is implemented."""
    reconstructs_series: ClassVar[bool] = False
    """Whether `reconstruct_series` is implemented, by a loss with output layers of its own."""
    default_num_samples: int | None = None
    """Sample paths that `forecast` draws by default; 0 for one deterministic forecast, None if it cannot sample."""

    def make_views(self, series: Series, rng: SampleRNG) -> Series:
        """Return the input of the tokenizer: by default the batch itself; it may be several views of each series.

        Args:
            series: in the units of the data, [B, C, T]
            rng: keyed by sample
        """
        return series

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens and the queries, both selected from `tokens`; by default all of them."""
        return tokens, tokens

    def bind_decoder(self, decoder: Decoder) -> None:
        """Inspect the decoder: raise IncompatibleError, or build layers for predictions of width `decoder.out.dim`.

        Called while the pipeline is built, before any weights are loaded.
        """

    def decoder_context(self, encoded: Tokens, queries: Tokens) -> Tokens:
        """Return the encoded tokens that the decoder receives; by default all of them."""
        return encoded

    def forecast(self, step_output: StepOutput, horizon: int, num_samples: int | None = None) -> Tensor:
        """Return sample paths of the future of each series, [S, B, C, horizon].

        Tokens of `step_output.tokens` that end after the context carry no information. If `masks_future` is also set,
        the predictions for the queries are available, and `step_output.head_output` comes from here in training too.

        Args:
            step_output: with `tokens`, and with `predictions` if `masks_future` is set
            horizon: samples to forecast
            num_samples: S, if the loss can sample; `default_num_samples` if None
        """
        raise NotImplementedError

    def reconstruct_series(self, step_output: StepOutput) -> Tensor:
        """Return the samples [B, C, T] that follow from the decoder's predictions at all tokens of the grid."""
        raise NotImplementedError

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return named scalars, each of which is logged; their sum plus `Tokens.aux_losses` is minimized.

        Put scalars that are only to be logged into `step_output.metrics`.
        """
        raise NotImplementedError


class BasePipeline(StandardizedModel):
    """The pipeline as the components in it see it, and the functions that predict with it; `Pipeline` implements it."""

    tokenizer: Tokenizer
    encoder: Encoder
    loss: Loss
    decoder: Decoder | None
    head: Head | None
    task: Task | None
    channel_independent: bool
    """Whether each channel is a series of its own, a row of the batch [B * C, 1, T]."""

    def preprocess(self, series: Series, mask_future: bool) -> StepOutput:
        """Return the input of the tokenizer and its tokens, from series in the units of the data."""
        raise NotImplementedError

    def compute_predictions(self, step_output: StepOutput) -> None:
        """Encode the visible tokens, and set the predictions of the decoder or the output of the head."""
        raise NotImplementedError

    def postprocess(self, values: Tensor, step_output: StepOutput) -> Tensor:
        """Convert samples [B', C', T] of the preprocessed series to standardized units, [B, C, T]."""
        raise NotImplementedError

    def predict_step(self, series: Series, horizon: int | None = None, num_samples: int | None = None) -> StepOutput:
        """Return a step output with `head_output` and `targets`, without a loss."""
        raise NotImplementedError

    def encode(self, series: Series) -> Tokens:
        """Encode all tokens of the context; with independent channels, those of all channels follow each other."""
        raise NotImplementedError
