"""Registration of the built-in components, through the same hook as plugins."""

from collections.abc import Iterator

from tstk.plugins.hooks import Entry, hookimpl

_COMPONENTS = {
    "tokenizer patch": ("patch:Patch", "Windows of samples, one token each"),
    "tokenizer inception": ("inception:Inception", "Windows of convolutional features"),
    "tokenizer resampled": ("resampled:Resampled", "A fixed number of tokens for series of any length"),
    "encoder identity": ("identity:Identity", "Tokens unchanged"),
    "encoder transformer": (
        "transformer:Transformer",
        "Pre- or post-norm, learned, sinusoidal or rotary positions, causal or not",
    ),
    "encoder bert": ("bert:Bert", "BERT's architecture, from scratch or pretrained"),
    "encoder hf": ("hf:HF", "Any Hugging Face encoder that accepts inputs_embeds"),
    "decoder linear": ("linear:Linear", "Linear layer on each token"),
    "decoder transformer": ("transformer:TransformerDecoder", "Light transformer over visible tokens and mask tokens"),
    "decoder cross": ("cross:Cross", "Cross-attention from queries to visible tokens"),
    "decoder own": ("own:Own", "The tokenizer's own decoder"),
    "head linear": ("linear:Linear", "Linear layer on pooled tokens"),
    "head cot": ("cot:CoT", "Latent reasoning tokens that attend to the series"),
    "head residual-mlp": ("residual_mlp:ResidualMLP", "Residual MLP on the mean of the tokens"),
    "head per-token": ("per_token:PerToken", "Linear layer on each token, for a class per sample"),
    "head forecast": ("forecast:Forecast", "Linear layer from all tokens to the whole horizon"),
    "loss cross-entropy": ("cross_entropy:CrossEntropy", "Classification of series, or of their samples"),
    "loss binary-cross-entropy": ("binary_cross_entropy:BinaryCrossEntropy", "Several labels per series"),
    "loss mse": ("regression:MSE", "Mean squared error of numbers"),
    "loss mae": ("regression:MAE", "Mean absolute error of numbers"),
    "loss huber": ("regression:Huber", "Error of numbers, squared if small and absolute if large"),
    "loss forecast": ("forecast:Forecast", "Squared, absolute or Huber error of a forecast"),
    "loss masked": ("masked:Masked", "Masked autoencoding: predict the samples of masked tokens"),
    "loss contrastive": ("contrastive:Contrastive", "InfoNCE between two crops of each series"),
    "loss hierarchical-contrastive": (
        "hierarchical_contrastive:HierarchicalContrastive",
        "Contrast tokens of two overlapping crops, with other series and other times",
    ),
    "loss reconstruct": ("reconstruct:Reconstruct", "Autoencoding without masking"),
    "loss next-code": ("next_code:NextCode", "Next-token prediction over a codebook"),
}
"""Kind and name -> `module:Class` and summary."""

_PROVIDES = {
    "tokenizer patch": ("target_dim", "stride", "ordered"),
    "tokenizer inception": ("target_dim", "stride", "ordered"),
    "tokenizer resampled": ("target_dim", "ordered"),
    "encoder transformer": ("causal", "num_prefix_tokens"),
    "encoder bert": ("num_prefix_tokens",),
}
"""Kind and name -> fields of the `Spec` that the component sets."""

_PAPERS = {
    "tokenizer patch": "PatchTST, arXiv:2211.14730",
    "tokenizer inception": "InceptionTime, arXiv:1909.04939",
    "tokenizer resampled": "Mantis, arXiv:2502.15637",
    "encoder transformer": "arXiv:1706.03762",
    "encoder bert": "BERT, arXiv:1810.04805",
    "decoder transformer": "MAE, arXiv:2111.06377",
    "decoder cross": "TimeMAE, arXiv:2303.00320",
    "head forecast": "PatchTST, arXiv:2211.14730",
    "loss masked": "MAE, arXiv:2111.06377",
    "loss contrastive": "Mantis, arXiv:2502.15637",
    "loss hierarchical-contrastive": "TS2Vec, arXiv:2106.10466",
    "config finetune": "Kumar et al. 2022, arXiv:2202.10054",
    "recipe pretrain-small": "CauKer, arXiv:2508.02879",
}

_FILES = {
    "config finetune": "Fine-tune a pretrained encoder, with the head initialised by logistic regression",
    "recipe pretrain-small": "Reproduce pretrained/small: contrastive pretraining on synthetic series",
}

_TASKS = {
    "classification": ("classification:Classification", "One of several classes per series"),
    "multilabel": ("multilabel:Multilabel", "Any number of labels per series"),
    "regression": ("regression:Regression", "One or several numbers per series"),
    "forecasting": ("forecasting:Forecasting", "The samples that follow"),
    "segmentation": ("segmentation:Segmentation", "One of several classes per sample"),
}
_PROBES = {
    "linear": ("LinearProbe", "Logistic regression"),
    "knn": ("KNNProbe", "Nearest neighbours"),
    "ridge": ("RidgeProbe", "Ridge regression, for numbers"),
    "multilabel": ("MultilabelProbe", "A logistic regression for each of several labels"),
    "svm": ("SVMProbe", "Support vector machine with an RBF kernel"),
}
_REPORTS = {
    "reasoning-attention": (
        "attention:render_reasoning_attention",
        "Attention of the reasoning tokens of head cot over some series",
    ),
}
_MASKINGS = {
    "random": ("mask_random", "Tokens without replacement, for each series"),
    "block": ("mask_block", "One contiguous stretch of time"),
    "tail": ("mask_tail", "The latest tokens"),
    "column": ("mask_column", "All tokens of a time together"),
    "per-batch": ("mask_per_batch", "The same places for the whole batch"),
}
_AUGMENTATIONS = {
    "jitter": ("add_jitter", "Noise on every sample"),
    "scaling": ("scale_channels", "A factor for each channel"),
    "permutation": ("permute_segments", "Segments in another order"),
    "time-warp": ("warp_time", "Varying speed"),
}
_TRACKERS = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
_READERS = {
    "ts": (".ts", "UCR/UEA archives with an @-header"),
    "tsv": (".tsv .txt", "UCR tables with the label first"),
    "arff": (".arff", "UCR/UEA archives in Weka's format"),
    "npz": (".npz", "NumPy archives of arrays X and y"),
    "npy": (".npy", "Folders of NumPy arrays X_train, y_train, ..."),
    "pt": (".pt", "Tensors of samples and labels saved by torch.save"),
    "csv": (".csv", "Labelled series by row, a forecasting table with dates, or a long table with ids"),
    "parquet": (".parquet", "Tables as in .csv files, or lists of samples"),
    "wfdb": (".hea", "PhysioNet records: a header and its signal files"),
    "edf": (".edf .bdf", "Recordings in the European data format and BioSemi's"),
    "recordings": ("", "Folders of recordings, one file each: classes by folder, or by a manifest.csv"),
    "shards": ("", "Several files of one format, such as part-*.parquet, joined"),
}
"""Name -> file suffixes and summary; those without a suffix read folders and patterns of files."""

_COMMANDS = {
    "train": "Train a pipeline on data and keep the best weights",
    "tune": "Search for the options with the best validation score",
    "run": "Run the stages of a recipe",
    "eval": "Score a run on data",
    "predict": "Write a run's predictions to a file",
    "impute": "Fill the missing samples of series or of a table",
    "detect": "Score samples by how unusual they are",
    "forecast": "Forecast the continuation of a table, with quantiles",
    "tokenize": "Write the codes of every series to a file",
    "embed": "Write one vector per series to a file",
    "export": "Export a run as a torch.export or ONNX graph",
    "probe": "Evaluate a run's frozen features with a simple classifier",
    "bench": "Compare methods over data sets and seeds",
    "report": "Write an HTML report of a run",
    "plot": "Write a figure of a run: forecasts, tokens, codes, ...",
    "push": "Share a run on the Hugging Face hub",
    "import": "Turn the weights of a published program into a run",
    "list": "List components by kind",
    "show": "Show a component's options, shapes and paper",
    "config": "List, show and copy configs",
    "data": "List, describe and convert data sets",
    "plugins": "List installed plugins; create and check your own",
    "doctor": "Check this installation and report problems",
    "kernels": "List operations with fast kernels, and their backends",
    "completion": "Print a shell completion script",
}


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield the entries of all built-in components, configs, data readers and commands."""
    for key, (target, summary) in _COMPONENTS.items():
        kind, name = key.split()
        folder = "losses" if kind == "loss" else f"{kind}s"
        provides = frozenset(_PROVIDES.get(key, ()))
        yield Entry(kind, name, f"tstk.builtin.{folder}.{target}", summary, provides, _PAPERS.get(key, ""))
    for name, (target, summary) in _TASKS.items():
        yield Entry("task", name, f"tstk.evaluation.tasks.{target}", summary)
    for name, (target, summary) in _PROBES.items():
        yield Entry("probe", name, f"tstk.evaluation.probe_classifiers:{target}", summary)
    for name, (target, summary) in _REPORTS.items():
        yield Entry("report", name, f"tstk.report.{target}", summary)
    for name, (target, summary) in _MASKINGS.items():
        yield Entry("masking", name, f"tstk.core.masking:{target}", summary)
    for name, (target, summary) in _AUGMENTATIONS.items():
        yield Entry("augmentation", name, f"tstk.training.augment:{target}", summary)
    for name, summary in _TRACKERS.items():
        yield Entry("tracker", name, f"tstk.training.trackers:create_{name}", summary)
    for key, summary in _FILES.items():
        kind, name = key.split()
        yield Entry(kind, name, f"tstk:{kind}s/{name}.toml", summary, paper=_PAPERS[key])
    for name, (suffixes, summary) in _READERS.items():
        yield Entry("reader", name, f"tstk.data.readers.{name}:read", summary, frozenset(suffixes.split()))
    for name, summary in _COMMANDS.items():
        module = "import_run" if name == "import" else name  # a keyword of Python
        yield Entry("command", name, f"tstk.cli.commands.{module}:command", summary)
