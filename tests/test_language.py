"""Old names stay gone: one word per concept, and the word is the field's (docs/glossary.md lists them).

The tables map each old name to the name that replaced it. A name that is a good word in another role, such as `index`,
is listed with the class or module that must not have it.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tstk.config.resolve import SECTIONS
from tstk.plugins.hooks import KINDS, SLOTS
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "tstk" / "templates"
SOURCES = [
    path
    for path in [*sorted((ROOT / "tstk").rglob("*.py")), *sorted(ROOT.glob("plugins/*/tstk_plugins_*/**/*.py"))]
    if TEMPLATES not in path.parents
]
MODULES = [
    path
    for folder in ("tstk", "plugins", "tests", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if TEMPLATES not in path.parents
]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("plugins/*/*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

# Wrong wherever a function, class, method, parameter, field or module is called so.
NAMES = {
    # records
    "Flow": "StepOutput",
    "flow": "step_output",
    "flows": "step_outputs",
    "seen": "visible",
    "asked": "queries",
    "decoded": "predictions",
    "truth": "targets",
    "futures": "forecast_samples",
    "but": "replace",
    "aligned": "predicts_in_place",
    "Draws": "SampleRNG",
    "draws": "rng",
    # slots
    "called": "display_name",
    "refusal": "missing_message",
    "freezes": "frozen_paths",
    "transient": "non_persistent",
    "rebuild": "config_overrides",
    "warm_start": "init_from_pretrained",
    "invert": "targets_to_series",
    "synthesises": "has_decoder",
    "extend": "forward_incremental",
    "meet": "bind_tokenizer",
    "attach": "bind_decoder",
    "reveal": "decoder_context",
    "foretell": "forecast",
    "foretells": "can_forecast",
    "blanks": "masks_future",
    "reads": "consumes",
    "series_answers": "accepts_series",
    # pipeline
    "continues": "forecasts_by_masking",
    "_enter": "preprocess",
    "_leave": "postprocess",
    "_reaching": "left_pad_context",
    "_scaled": "standardize",
    "_normalised": "instance_normalize",
    "_continued": "append_future",
    "_blanked": "mask_future",
    "_unfolded": "unfold_channels",
    "_future": "decode_future",
    "take": "set_channels (pipeline), read (readers), gather (tokens)",
    # building and checkpoints
    "assemble": "build_pipeline",
    "rehearse": "validate_on_meta",
    "stand_in": "dummy_spec",
    "mount": "init_from",
    "mounts": "init_from",
    "matches": "check_state_dict",
    "alone": "run_lock",
    "replacing": "atomic_write",
    "room": "explain_write_errors",
    "chosen": "parse_overrides",
    "outline": "read_signature",
    "NameUnknown": "UnknownNameError",
    "NeedsError": "IncompatibleError",
    # training
    "Watcher": "Callback",
    "Ledger": "MetricTracker",
    "ledger": "metric_tracker",
    "Average": "EMA",
    "Judge": "BestEpoch",
    "judge": "best_epoch",
    "Board": "TrackerCallback",
    "board": "trackers",
    "Moving": "TrainState",
    "moving": "state",
    "Last": "ResumeStore",
    "Saved": "ResumeSnapshot",
    "Pauses": "SavePoints",
    "asked_to_stop": "defer_signals",
    "Stopped": "TrainingInterrupted",
    "Fitted": "FitResult",
    "course": "lr_lambda",
    "find_rate": "lr_range_test",
    "put": "copy_into",
    "callable_apart": "register_fsdp_methods",
    # data
    "Dataset": "DataModule",
    "Raw": "SeriesSet",
    "Stored": "LazyArray",
    "Part": "Split",
    "Labelled": "SeriesDataset",
    "Repeated": "RepeatDataset",
    "Windows": "WindowDataset",
    "borders": "split_boundaries",
    "by_group": "group_split",
    "few": "subsample_per_class",
    "joint": "concat",
    "several": "concat",
    # evaluation and report
    "classified": "classification_metrics",
    "told_apart": "linear_probe_accuracy",
    "told": "describe",
    "vectors": "feature_extractor",
    "shares": "code_frequencies (codes), attention_weights (attention)",
    "Known": "RunContext",
    "know": "load_context",
    "account": "summary",
    # nn and kernels
    "Kept": "KVCache",
    "recompute": "gradient_checkpointing",
    "Quantized": "VQOutput",
    "spread": "code_usage",
    "_follow": "ema_update",
    "_start": "kmeans_init",
    "_revive": "reset_dead_codes",
    "revive": "dead_code_threshold",
    "confer": "self_attn",
    "think": "mlp",
    "thoughts": "reasoning_tokens",
    "absent": "why_unavailable",
    "pick": "select",
    "using": "use_backend",
    "turned": "rotated",
    # plugins
    "Begun": "RolloutState",
    "following": "next_token",
    "latest": "last_tokens",
    "heat": "temperature",
    "coldest": "min_temperature",
    "cooling": "anneal",
    "crowding": "diversity",
    "controls": "ablations",
    "made": "synthetic",
    "watched": "codeword_metrics",
    "joined": "unpatchify",
    "pictures": "figures",
}

# Wrong in one class, or in one module.
OWNED_NAMES = {
    "StepOutput": {
        "hidden": "masked",
        "output": "head_output",
        "terms": "losses",
        "total": "loss",
        "logs": "metrics",
        "mean": "loc",
    },
    "Spec": {
        "classes": "num_outputs",
        "vocab": "vocab_size",
        "prefix": "num_prefix_tokens",
        "grid": "grid_size",
        "step": "stride",
        "span": "patch_len",
        "content": "tokenizer_dim",
        "target": "target_dim",
        "counts": "class_counts",
        "extra": "conditioning",
    },
    "Tokens": {
        "at": "gather",
        "keep": "select",
        "append": "cat",
        "ends": "end_positions",
        "weight": "target_mask",
        "aux": "aux_losses",
        "index": "grid_index",
    },
    "Series": {"mask": "observed_mask", "key": "sample_id", "fold": "fold_channels", "extra": "conditioning"},
    "Slot": {"rates": "lr_overrides", "load": "load_pretrained"},
    "Tokenizer": {"reach": "receptive_field"},
    "Encoder": {"place": "pos_embed"},
    "Decoder": {"mixes": "attends_across", "whole": "predicts_series", "place": "pos_embed"},
    "Loss": {"decoder": "default_decoder", "samples": "default_num_samples"},
    "Pipeline": {"answer": "predict_step"},
    "DataModule": {"like": "input_schema", "facts": "describe"},
    "Signature": {"facts": "class_attrs", "contract": "interface_version"},
    "Option": {"convert": "parse", "hint": "type_label"},
    "Backend": {"supports": "why_unsupported"},
    "TimeMAE": {"center": "codeword_classifier"},
    "CoT": {"ask": "cross_attn", "look": "self_attn"},
    # functions of a module
    "build": {"create": "build_component"},
    "checkpoint": {"launch": "initialize_for_training", "restore": "rebuild_for_resume"},
    "optim": {"groups": "param_groups", "budget": "resolve_duration"},
    "reduce": {"mean": "masked_mean", "pool": "masked_pool"},
    "resolve": {"use": "component"},
    # modules
    "module": {
        "last": "resume_store",
        "average": "ema",
        "pauses": "interrupt",
        "slots": "interfaces",
    },
}

FLAGS = {
    "--clip": "--grad-clip",
    "--accumulate": "--grad-accum-steps",
    "--average": "--ema-decay",
    "--recompute": "--gradient-checkpointing",
    "--warmup": "--warmup-ratio",
    "--schedule": "--lr-schedule",
    "--lr-of": "--lr-override",
    "--probe": "--probe-every",
    "--labels": "--label-fraction",
    "--label": "--label-column",
    "--scale": "--standardize",
    "--extra": "--conditioning",
    "--track": "--trackers",
    "--from": "--init-from",
    "--select": "--select-by",
    "--choose": "--select-on",
    "--setting": "--param",
    "--univariate": "--split-channels",
}
ENTRIES = {"text-made": "text-synthetic", "text-controls": "text-ablation"}

# A function's name says what it does or returns, and a local's what it holds; none of these does.
MEANINGLESS_LOCALS = {
    *("told", "said", "made", "held", "given", "found", "laid", "asked", "wanted", "named", "mine", "theirs"),
    *("one", "what", "which", "who", "whose", "at", "of", "it", "this", "that"),
}
MEANINGLESS_FUNCTIONS = {*MEANINGLESS_LOCALS, "seen", "kept", "meant", "heard", "other", "others", "again"}
MAX_LINES = 5
"""Lines that a local with such a name may live."""


def read_definitions(path, tree):
    """(owners, name, line) of each definition of a module; owners are the class and its bases, or the module."""

    def walk(node, owners):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                continue  # defines nothing
            if isinstance(child, ast.ClassDef):
                yield owners, child.name, child.lineno
                yield from walk(child, (child.name, *(ast.unparse(base).split(".")[-1] for base in child.bases)))
            elif isinstance(child, ast.FunctionDef):
                yield owners, child.name, child.lineno
                arguments = child.args
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    yield (), argument.arg, argument.lineno
                yield from walk(child, ())
            else:
                if owners and isinstance(child, ast.Assign | ast.AnnAssign):
                    targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                    yield from ((owners, t.id, child.lineno) for t in targets if isinstance(t, ast.Name))
                yield from walk(child, owners)

    yield ("module",), path.stem, 1
    yield from walk(tree, (path.stem,))


def find_old_names(path, tree):
    """A line for each definition of a module that has an old name."""
    for owners, name, line in read_definitions(path, tree):
        for owner in owners:
            if new := OWNED_NAMES.get(owner, {}).get(name):
                yield f"{path.name}:{line}: {owner}.{name}; the term is {new}"
        if name in NAMES:
            yield f"{path.name}:{line}: {name}; the term is {NAMES[name]}"


def find_meaningless_names(path, nodes):
    """A line for each function, and each local of more than `MAX_LINES` lines, that is a bare participle or pronoun."""
    places = [(n.lineno, n.id) for n in nodes if isinstance(n, ast.Name)]
    places += [(n.lineno, n.arg) for n in nodes if isinstance(n, ast.arg)]
    meaningless = [(line, name) for line, name in places if name in MEANINGLESS_LOCALS]
    for function in nodes:
        if not isinstance(function, ast.FunctionDef):
            continue
        if function.name in MEANINGLESS_FUNCTIONS:
            yield f"{path.name}:{function.lineno}: function {function.name}"
        lines = {}
        for line, name in meaningless:
            if function.lineno <= line <= function.end_lineno:
                lines.setdefault(name, []).append(line)
        for name, numbers in lines.items():
            if max(numbers) - min(numbers) >= MAX_LINES:
                yield f"{path.name}:{min(numbers)}: local {name}"


def find_renaming_imports(path, nodes):
    """The imports of a module that give a name of the project another one."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or node.names[0].name
            if module.split(".")[0].startswith(("tstk", "tests", "benchmarks")):
                names = [a for a in node.names if a.asname not in (None, a.name.split(".")[-1])]
                yield from (f"{path.name}: from {module} import {a.name} as {a.asname}" for a in names)


@cache
def inspect_module(path):
    """The old, meaningless and renaming names of a module, which is parsed and traversed once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    meaningless, renaming = find_meaningless_names(path, nodes), find_renaming_imports(path, nodes)
    return [list(names) for names in (find_old_names(path, tree), meaningless, renaming)]


def find_old_terms(text):
    """Each old flag in a text, and each old name in its code spans, with the term that replaced it."""
    for flag, new in FLAGS.items():
        if re.search(rf"(?<![\w-]){flag}(?![\w-])", text):
            yield f"{flag}; the term is {new}"
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    owned = {f"{owner}.{old}": new for owner, names in OWNED_NAMES.items() for old, new in names.items()}
    terms = {**NAMES, **owned, **ENTRIES}
    yield from (f"`{span}`; the term is {terms[bare]}" for span in spans if (bare := span.removesuffix("()")) in terms)


def test_no_definition_has_an_old_name():
    assert len(SOURCES) > 300
    wrong = [line for path in SOURCES for line in inspect_module(path)[0]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("paths", [SOURCES, pytest.param(MODULES, marks=pytest.mark.slow)], ids=["sources", "all"])
def test_no_function_and_no_long_lived_local_is_a_bare_participle_or_pronoun(paths):
    assert len(paths) > 300
    wrong = [line for path in paths for line in inspect_module(path)[1]]
    assert not wrong, "\n".join(wrong)


def test_no_flag_option_or_registry_name_is_an_old_one():
    registry = get_registry()
    targets = [*SECTIONS.values(), *(registry.find(s, name).target for s in SLOTS for name in registry.list_names(s))]
    options = {(target, option.flag) for target in targets for option in read_signature(target).options.values()}
    assert len(options) > 100
    old = {f"--{name.replace('_', '-')}" for name in NAMES} | set(FLAGS)
    wrong = [f"{target}: {flag}" for target, flag in options if flag in old]
    wrong += [f"{kind} {name}" for kind in KINDS for name in registry.list_names(kind) if name in {*ENTRIES, *NAMES}]
    assert not wrong, "\n".join(wrong)


def test_no_page_shows_an_old_name():
    assert len(PAGES) > 20
    wrong = [f"{page.name}: {line}" for page in PAGES for line in find_old_terms(page.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_at_most_two_imports_rename_names_of_the_project():
    renaming = [line for path in MODULES for line in inspect_module(path)[2]]
    assert len(renaming) <= 2, "\n".join(renaming)


def test_an_old_name_that_comes_back_is_found(tmp_path):
    module = tmp_path / "records.py"
    module.write_text(
        "class Series:\n    key: int = 0\n    index: int = 0\n\n\n"
        "class BERT(Encoder):\n    def place(self, draws):\n        pass\n\n\n"
        "def told():\n    found = []\n    found.append(1)\n    pass\n    pass\n    pass\n    return found\n"
    )
    old, meaningless, _ = inspect_module(module)
    assert old == [
        "records.py:2: Series.key; the term is sample_id",
        "records.py:7: Encoder.place; the term is pos_embed",
        "records.py:7: draws; the term is rng",
        "records.py:11: told; the term is describe",
    ]
    assert meaningless == ["records.py:11: function told", "records.py:12: local found"]
    text = "Set `--accumulate 4`, see `Flow` and `Tokens.index`, not `--label-fraction` nor the index."
    assert list(find_old_terms(text)) == [
        "--accumulate; the term is --grad-accum-steps",
        "`Flow`; the term is StepOutput",
        "`Tokens.index`; the term is grid_index",
    ]
