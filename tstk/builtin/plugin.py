"""The core's own components, announced through the same hook as everybody's."""

from collections.abc import Iterator

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk.builtin"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Everything the core offers by name."""
    yield Entry(
        "tokenizer",
        "patch",
        f"{_HERE}.tokenizers.patch:Patch",
        "Windows of samples, one token each",
        provides=frozenset({"target", "step", "ordered"}),
        paper="PatchTST, arXiv:2211.14730",
    )

    yield Entry(
        "tokenizer",
        "inception",
        f"{_HERE}.tokenizers.inception:Inception",
        "Windows of a convolution network's features",
        provides=frozenset({"target", "step", "ordered"}),
        paper="InceptionTime, arXiv:1909.04939",
    )
    yield Entry(
        "tokenizer",
        "resampled",
        f"{_HERE}.tokenizers.resampled:Resampled",
        "A fixed number of convolutional tokens of a series of any length",
        provides=frozenset({"target", "ordered"}),
        paper="Mantis, arXiv:2502.15637",
    )

    yield Entry("encoder", "identity", f"{_HERE}.encoders.identity:Identity", "Tokens as they are")
    yield Entry(
        "encoder",
        "transformer",
        f"{_HERE}.encoders.transformer:Transformer",
        "Pre- or post-norm, learned, sinusoidal or rotary positions, causal or not",
        provides=frozenset({"causal", "prefix"}),
        paper="arXiv:1706.03762",
    )
    yield Entry(
        "encoder",
        "bert",
        f"{_HERE}.encoders.bert:Bert",
        "BERT's architecture, from scratch or pretrained",
        provides=frozenset({"prefix"}),
        paper="BERT, arXiv:1810.04805",
    )
    yield Entry("encoder", "hf", f"{_HERE}.encoders.hf:HF", "Any Hugging Face encoder that accepts inputs_embeds")

    yield Entry("decoder", "linear", f"{_HERE}.decoders.linear:Linear", "One matrix per token")
    yield Entry(
        "decoder",
        "transformer",
        f"{_HERE}.decoders.transformer:TransformerDecoder",
        "Light transformer with mask tokens where nothing was seen",
        paper="MAE, arXiv:2111.06377",
    )
    yield Entry(
        "decoder",
        "cross",
        f"{_HERE}.decoders.cross:Cross",
        "Questions attend to seen tokens only",
        paper="TimeMAE, arXiv:2303.00320",
    )
    yield Entry("decoder", "own", f"{_HERE}.decoders.own:Own", "The tokenizer decodes its tokens itself")

    yield Entry("head", "linear", f"{_HERE}.heads.linear:Linear", "Pooled tokens through one matrix")
    yield Entry("head", "cot", f"{_HERE}.heads.cot:CoT", "Latent reasoning tokens that attend to the series")
    yield Entry("head", "residual-mlp", f"{_HERE}.heads.residual_mlp:ResidualMLP", "Mean through a residual MLP")
    yield Entry(
        "head",
        "forecast",
        f"{_HERE}.heads.forecast:Forecast",
        "All tokens to the whole horizon at once",
        paper="PatchTST, arXiv:2211.14730",
    )

    yield Entry("loss", "cross-entropy", f"{_HERE}.losses.cross_entropy:CrossEntropy", "Classification")
    yield Entry("loss", "forecast", f"{_HERE}.losses.forecast:Forecast", "Distance of a forecast from the future")
    yield Entry(
        "loss",
        "masked",
        f"{_HERE}.losses.masked:Masked",
        "Hide tokens and ask for their samples",
        paper="MAE, arXiv:2111.06377",
    )
    yield Entry(
        "loss",
        "contrastive",
        f"{_HERE}.losses.contrastive:Contrastive",
        "Tell two crops of a series from those of others",
        paper="Mantis, arXiv:2502.15637",
    )
    yield Entry("loss", "reconstruct", f"{_HERE}.losses.reconstruct:Reconstruct", "Autoencoding, nothing hidden")
    yield Entry("loss", "next-code", f"{_HERE}.losses.next_code:NextCode", "Cross-entropy of the following code")

    yield Entry(
        "config",
        "finetune",
        "tstk:configs/finetune.toml",
        "Fine-tune a pretrained encoder gently, from a logistic regression of its features",
        paper="Kumar et al. 2022, arXiv:2202.10054",
    )
    yield Entry(
        "recipe",
        "pretrain-small",
        "tstk:recipes/pretrain-small.toml",
        "Make pretrained/small again: contrastive pretraining on synthetic series",
        paper="CauKer, arXiv:2508.02879",
    )

    for name, suffixes, summary in (
        ("ts", {".ts"}, "UCR/UEA archives with an @-header"),
        ("tsv", {".tsv", ".txt"}, "UCR tables, label first"),
        ("arff", {".arff"}, "UCR/UEA archives in Weka's format"),
        ("npz", {".npz"}, "NumPy archives of arrays X and y"),
        ("npy", {".npy"}, "Folders of NumPy arrays X_train, y_train, ..."),
        ("pt", {".pt"}, "Tensors of samples and labels that torch saved"),
        ("csv", {".csv"}, "Labelled rows, a forecasting table with dates, or rows of time with an id"),
        ("parquet", {".parquet"}, "What a .csv file may hold, or lists of samples"),
        ("wfdb", {".hea"}, "Records of PhysioNet, their header beside the signals"),
    ):
        yield Entry("data", name, f"tstk.data.readers.{name}:read", summary, provides=frozenset(suffixes))

    for name, summary in (
        ("train", "Train a pipeline on data and keep the best weights"),
        ("run", "Run the stages of a recipe"),
        ("eval", "Score a run on data"),
        ("predict", "Write a run's predictions to a file"),
        ("forecast", "Write what follows a table, with quantiles"),
        ("tokenize", "Write the codes of every series to a file"),
        ("embed", "Write one vector per series to a file"),
        ("export", "Write a run as one graph: torch.export or ONNX"),
        ("probe", "Score a run's frozen features with a small classifier"),
        ("bench", "Compare methods over data sets and seeds"),
        ("codebook", "Draw the codes of a run, with their usage"),
        ("report", "Write a page with all that is known of a run"),
        ("list", "List components by kind"),
        ("show", "Show a component: options, shapes, paper"),
        ("config", "List, show and copy configs"),
        ("data", "List data sets, report on one, convert one"),
        ("plugins", "List installed plugins; start and check one of your own"),
        ("doctor", "Look over this installation, and say what is broken"),
        ("kernels", "List fast operations and what serves them here"),
        ("completion", "Print a script that lets a shell complete"),
    ):
        yield Entry("command", name, f"tstk.cli.commands.{name}:command", summary)
