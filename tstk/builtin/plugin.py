"""Registration of the built-in components, through the same hook as plugins."""

from collections.abc import Iterator

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk.builtin"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield the entries of all built-in components, configs, data readers and commands."""
    yield Entry(
        "tokenizer",
        "patch",
        f"{_HERE}.tokenizers.patch:Patch",
        "Windows of samples, one token each",
        provides=frozenset({"target_dim", "stride", "ordered"}),
        paper="PatchTST, arXiv:2211.14730",
    )

    yield Entry(
        "tokenizer",
        "inception",
        f"{_HERE}.tokenizers.inception:Inception",
        "Windows of convolutional features",
        provides=frozenset({"target_dim", "stride", "ordered"}),
        paper="InceptionTime, arXiv:1909.04939",
    )
    yield Entry(
        "tokenizer",
        "resampled",
        f"{_HERE}.tokenizers.resampled:Resampled",
        "A fixed number of tokens for series of any length",
        provides=frozenset({"target_dim", "ordered"}),
        paper="Mantis, arXiv:2502.15637",
    )

    yield Entry("encoder", "identity", f"{_HERE}.encoders.identity:Identity", "Tokens unchanged")
    yield Entry(
        "encoder",
        "transformer",
        f"{_HERE}.encoders.transformer:Transformer",
        "Pre- or post-norm, learned, sinusoidal or rotary positions, causal or not",
        provides=frozenset({"causal", "num_prefix_tokens"}),
        paper="arXiv:1706.03762",
    )
    yield Entry(
        "encoder",
        "bert",
        f"{_HERE}.encoders.bert:Bert",
        "BERT's architecture, from scratch or pretrained",
        provides=frozenset({"num_prefix_tokens"}),
        paper="BERT, arXiv:1810.04805",
    )
    yield Entry("encoder", "hf", f"{_HERE}.encoders.hf:HF", "Any Hugging Face encoder that accepts inputs_embeds")

    yield Entry("decoder", "linear", f"{_HERE}.decoders.linear:Linear", "Linear layer on each token")
    yield Entry(
        "decoder",
        "transformer",
        f"{_HERE}.decoders.transformer:TransformerDecoder",
        "Light transformer over visible tokens and mask tokens",
        paper="MAE, arXiv:2111.06377",
    )
    yield Entry(
        "decoder",
        "cross",
        f"{_HERE}.decoders.cross:Cross",
        "Cross-attention from queries to visible tokens",
        paper="TimeMAE, arXiv:2303.00320",
    )
    yield Entry("decoder", "own", f"{_HERE}.decoders.own:Own", "The tokenizer's own decoder")

    yield Entry("head", "linear", f"{_HERE}.heads.linear:Linear", "Linear layer on pooled tokens")
    yield Entry("head", "cot", f"{_HERE}.heads.cot:CoT", "Latent reasoning tokens that attend to the series")
    yield Entry(
        "head", "residual-mlp", f"{_HERE}.heads.residual_mlp:ResidualMLP", "Residual MLP on the mean of the tokens"
    )
    yield Entry(
        "head",
        "forecast",
        f"{_HERE}.heads.forecast:Forecast",
        "Linear layer from all tokens to the whole horizon",
        paper="PatchTST, arXiv:2211.14730",
    )

    yield Entry("loss", "cross-entropy", f"{_HERE}.losses.cross_entropy:CrossEntropy", "Classification")
    yield Entry(
        "loss", "forecast", f"{_HERE}.losses.forecast:Forecast", "Squared, absolute or Huber error of a forecast"
    )
    yield Entry(
        "loss",
        "masked",
        f"{_HERE}.losses.masked:Masked",
        "Masked autoencoding: predict the samples of masked tokens",
        paper="MAE, arXiv:2111.06377",
    )
    yield Entry(
        "loss",
        "contrastive",
        f"{_HERE}.losses.contrastive:Contrastive",
        "InfoNCE between two crops of each series",
        paper="Mantis, arXiv:2502.15637",
    )
    yield Entry(
        "loss",
        "hierarchical-contrastive",
        f"{_HERE}.losses.hierarchical_contrastive:HierarchicalContrastive",
        "Contrast tokens of two overlapping crops, with other series and other times",
        paper="TS2Vec, arXiv:2106.10466",
    )
    yield Entry("loss", "reconstruct", f"{_HERE}.losses.reconstruct:Reconstruct", "Autoencoding without masking")
    yield Entry("loss", "next-code", f"{_HERE}.losses.next_code:NextCode", "Next-token prediction over a codebook")

    yield Entry(
        "config",
        "finetune",
        "tstk:configs/finetune.toml",
        "Fine-tune a pretrained encoder, with the head initialised by logistic regression",
        paper="Kumar et al. 2022, arXiv:2202.10054",
    )
    yield Entry(
        "recipe",
        "pretrain-small",
        "tstk:recipes/pretrain-small.toml",
        "Reproduce pretrained/small: contrastive pretraining on synthetic series",
        paper="CauKer, arXiv:2508.02879",
    )

    for name, suffixes, summary in (
        ("ts", {".ts"}, "UCR/UEA archives with an @-header"),
        ("tsv", {".tsv", ".txt"}, "UCR tables with the label first"),
        ("arff", {".arff"}, "UCR/UEA archives in Weka's format"),
        ("npz", {".npz"}, "NumPy archives of arrays X and y"),
        ("npy", {".npy"}, "Folders of NumPy arrays X_train, y_train, ..."),
        ("pt", {".pt"}, "Tensors of samples and labels saved by torch.save"),
        ("csv", {".csv"}, "Labelled series by row, a forecasting table with dates, or a long table with ids"),
        ("parquet", {".parquet"}, "Tables as in .csv files, or lists of samples"),
        ("wfdb", {".hea"}, "PhysioNet records: a header and its signal files"),
    ):
        yield Entry("data", name, f"tstk.data.readers.{name}:read", summary, provides=frozenset(suffixes))

    for name, summary in (
        ("train", "Train a pipeline on data and keep the best weights"),
        ("run", "Run the stages of a recipe"),
        ("eval", "Score a run on data"),
        ("predict", "Write a run's predictions to a file"),
        ("forecast", "Forecast the continuation of a table, with quantiles"),
        ("tokenize", "Write the codes of every series to a file"),
        ("embed", "Write one vector per series to a file"),
        ("export", "Export a run as a torch.export or ONNX graph"),
        ("probe", "Evaluate a run's frozen features with a simple classifier"),
        ("bench", "Compare methods over data sets and seeds"),
        ("codebook", "Plot the codes of a run and their usage"),
        ("report", "Write an HTML report of a run"),
        ("list", "List components by kind"),
        ("show", "Show a component's options, shapes and paper"),
        ("config", "List, show and copy configs"),
        ("data", "List, describe and convert data sets"),
        ("plugins", "List installed plugins; create and check your own"),
        ("doctor", "Check this installation and report problems"),
        ("kernels", "List operations with fast kernels, and their backends"),
        ("completion", "Print a shell completion script"),
    ):
        yield Entry("command", name, f"tstk.cli.commands.{name}:command", summary)
