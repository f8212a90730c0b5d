"""A probe classifies frozen features, and never uses the test labels."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tstk.evaluation.features
import tstk.evaluation.probe
from tstk.cli import cli
from tstk.config.resolve import resolve_config
from tstk.data import load_data
from tstk.errors import DataError, IncompatibleError, OptionError, UnknownNameError
from tstk.evaluation import probe_classifiers
from tstk.evaluation.baselines import score_classification_baselines
from tstk.evaluation.probe import probe
from tstk.evaluation.probe_classifiers import FeatureSet, LinearProbe
from tstk.training.runs import train

TINY = {
    "tokenizer": {"use": "patch", "dim": 16, "window": 8},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}


def train_classifier(folder, **tables):
    quick = {"steps": 2, "batch_size": 16, "device": "cpu", "threads": 1}
    train(resolve_config(("flag", {**TINY, "train": quick, **tables})), folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A masked pretraining of two steps on the embedded activities."""
    return train_classifier(tmp_path_factory.mktemp("runs") / "masked", loss="masked", data="har-demo")


def find_row(result, weights="trained", share=1.0):
    return next(r for r in result["results"] if (r["weights"], r["label_fraction"]) == (weights, share))


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["knn", "linear", "svm"])
def test_random_features_already_separate_activities(pretrained, classifier):
    result = probe(pretrained, classifier=classifier, untrained=True)
    for weights in ("trained", "untrained"):
        assert find_row(result, weights)["accuracy"] > 2 * find_row(result)["baselines"]["majority class"]["accuracy"]
    margin = find_row(result)["accuracy"] - find_row(result, "untrained")["accuracy"]
    assert find_row(result)["margin_accuracy"] == pytest.approx(margin)


@pytest.mark.slow
def test_features_of_a_constant_encoder_tell_nothing(pretrained, monkeypatch):
    monkeypatch.setattr(
        tstk.evaluation.probe.Pipeline, "embed_batch", lambda self, series, how: torch.ones(len(series.x), 3)
    )
    result = probe(pretrained)
    assert find_row(result)["accuracy"] == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.slow
def test_a_share_learns_from_that_many_labels_of_each_class(pretrained, monkeypatch):
    fitted = []
    fit = LinearProbe.fit
    monkeypatch.setattr(
        LinearProbe, "fit", lambda self, params, rows: fitted.append(np.bincount(rows.y)) or fit(self, params, rows)
    )
    data = load_data("har-demo")
    train, val = (np.bincount(part.y) for part in (data.train, data.val))
    probe(pretrained, label_fraction=(0.5,))
    *choosing, last = fitted
    assert all((counts == np.rint(train / 2)).all() for counts in choosing)
    assert (last == np.rint(train / 2) + np.rint(val / 2)).all()
    fitted.clear()
    assert find_row(probe(pretrained, label_fraction=(0.01,)), share=0.01)["count"] == 18
    assert all((counts == 2).all() for counts in fitted[:-1])
    assert (fitted[-1] == 3).all()  # two to fit and one to choose by


@pytest.mark.slow
def test_seeds_draw_other_labels_and_the_same_seed_the_same(pretrained):
    first = find_row(probe(pretrained, label_fraction=(0.1,), seeds=(0, 1, 2)), share=0.1)
    again = find_row(probe(pretrained, label_fraction=(0.1,), seeds=(0, 1, 2)), share=0.1)
    accuracies = [trial["accuracy"] for trial in first["trials"]]
    assert first == again
    assert len(set(accuracies)) > 1
    assert first["accuracy"] == pytest.approx(np.mean(accuracies))
    assert first["accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))


@pytest.mark.slow
def test_with_all_labels_the_same_weights_are_tried_once_and_untrained_ones_per_seed(pretrained):
    result = probe(pretrained, seeds=(0, 1), untrained=True)
    assert len(find_row(result)["trials"]) == 1
    assert find_row(result)["accuracy_deviation"] is None
    assert len({trial["accuracy"] for trial in find_row(result, "untrained")["trials"]}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["val", "folds"])
@pytest.mark.parametrize("classifier", ["linear", "knn", "svm"])
def test_other_test_labels_change_no_choice_but_the_score(pretrained, classifier, choose, monkeypatch):
    want = probe(pretrained, classifier=classifier, select_on=choose, label_fraction=(0.3,), seeds=(0, 1))

    def shuffle_labels(*args, **options):
        data = load_data(*args, **options)
        data.test.y = data.test.y[torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))]
        return data

    monkeypatch.setattr(tstk.evaluation.probe, "load_data", shuffle_labels)
    found = probe(pretrained, classifier=classifier, select_on=choose, label_fraction=(0.3,), seeds=(0, 1))
    assert [t["chosen"] for t in find_row(found, share=0.3)["trials"]] == [
        t["chosen"] for t in find_row(want, share=0.3)["trials"]
    ]
    assert find_row(found, share=0.3)["accuracy"] < find_row(want, share=0.3)["accuracy"] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["linear", "knn", "svm"])
def test_a_setting_that_is_given_is_not_chosen(pretrained, classifier):
    (trial,) = find_row(probe(pretrained, classifier=classifier, param=3))["trials"]
    assert 3 in trial["chosen"].values()


@pytest.mark.slow
@pytest.mark.parametrize(("classifier", "setting"), [("linear", 0), ("svm", -1.0), ("knn", 2.5)])
def test_a_setting_that_cannot_be_is_refused(pretrained, classifier, setting):
    with pytest.raises(OptionError, match="param="):
        probe(pretrained, classifier=classifier, param=setting)


@pytest.mark.slow
def test_baselines_learn_from_the_labels_that_the_features_are_probed_with(pretrained):
    full, part = probe(pretrained, label_fraction=(1.0, 0.1), seeds=(0, 1))["results"]
    data = load_data("har-demo")
    want = score_classification_baselines([data.train, data.val], data.test, data.spec).scores
    assert full["baselines"].keys() == {"majority class", "1-NN", "logistic"}
    assert {name: scores["accuracy"] for name, scores in full["baselines"].items()} == pytest.approx(
        {name: scores["accuracy"] for name, scores in want.items()}
    )
    assert part["baselines"]["logistic"]["accuracy"] < full["baselines"]["logistic"]["accuracy"] - 0.05


@pytest.mark.slow
def test_a_probe_that_loses_to_a_baseline_says_so_in_its_last_lines(pretrained):
    lines = CliRunner().invoke(cli, ["probe", str(pretrained), "--label-fraction", "1.0,0.1"]).stdout.splitlines()
    assert any(line.split()[:3] == ["logistic", "0.1", "24"] for line in lines)
    assert lines[-1].startswith("With 24 labels: This model loses to the baseline")


@pytest.mark.slow
def test_a_run_that_was_validated_on_test_is_not_probed_with_it(tmp_path):
    data = {"use": "har-demo", "val_data": "test"}
    notes = []
    result = probe(train_classifier(tmp_path / "a", loss="masked", data=data), print_fn=notes.append)
    own = probe(train_classifier(tmp_path / "b", loss="masked", data="har-demo"))
    assert result["sizes"] == own["sizes"]
    assert "splits validation data off the training split" in notes[0]


@pytest.mark.slow
def test_a_run_that_learnt_from_the_test_part_is_probed_with_labels_of_the_training_part(tmp_path):
    data = {"use": "har-demo", "train_data": "test"}
    notes = []
    result = probe(train_classifier(tmp_path / "a", loss="masked", data=data), print_fn=notes.append)
    own = probe(train_classifier(tmp_path / "b", loss="masked", data="har-demo"))
    assert result["sizes"] == own["sizes"]
    assert "transductive" in notes[0]


@pytest.mark.slow
def test_tokens_lie_in_their_slots_whatever_the_batch(pretrained):
    pipeline, data = tstk.evaluation.probe.load(pretrained), load_data("har-demo")
    series = data.test.batch(torch.arange(4))
    rows = tstk.evaluation.features.concat_tokens(pipeline, series)
    tokens = pipeline.encode(series)
    for i in range(4):
        want = torch.zeros(pipeline.tokenizer.out.num_tokens, tokens.values.shape[-1])
        for n in range(tokens.valid.shape[1]):
            if tokens.valid[i, n]:
                want[tokens.grid_index[i, n]] = tokens.values[i, n]
        assert torch.allclose(rows[i], want.flatten())
    assert probe(pretrained, features="tokens")["width"] == rows.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["mixed", "independent"])
def test_codes_are_counted_channel_by_channel_where_channels_are_independent(syllables, tmp_path, channels):
    parts = {
        "tokenizer": syllables,
        "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "causal": True},
    }
    run = train_classifier(
        tmp_path / "codes", **parts, loss="next-code", data="har-demo", pipeline={"channels": channels}
    )
    result = probe(run, features="codes")
    assert result["width"] == (5 if channels == "mixed" else 45)
    rows = tstk.evaluation.features.code_frequencies(
        tstk.evaluation.probe.load(run), load_data("har-demo").test.batch(torch.arange(3))
    )
    assert torch.allclose(rows.sum(1), torch.ones(3))


def test_continuous_tokens_have_no_codes(pretrained):
    with pytest.raises(IncompatibleError, match="tokenizer 'patch' makes no codes; use --features"):
        probe(pretrained, features="codes")


@pytest.mark.slow
def test_other_data_bring_their_own_classes_and_must_have_the_same_channels(run, pretrained, npz, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"X_{part}": rng.normal(size=(40, 2, 20)).astype(np.float32) for part in ("train", "test")}
    for part in ("train", "test"):
        arrays[f"y_{part}"] = np.where(np.arange(40) % 2, "up", "down")
        arrays[f"X_{part}"][1::2] += 5
    np.savez(tmp_path / "levels.npz", **arrays)
    result = probe(run, str(tmp_path / "levels.npz"))
    assert result["classes"] == ["down", "up"]
    assert find_row(result)["accuracy"] > 0.9
    with pytest.raises(DataError, match="2 channels; the run has 9"):
        probe(pretrained, npz)


@pytest.mark.slow
def test_data_without_classes_are_refused_in_a_line(tmp_path, csv):
    np.savez(tmp_path / "bare.npz", X=np.random.default_rng(0).normal(size=(30, 2, 20)).astype(np.float32))
    bare = train_classifier(tmp_path / "bare", loss="masked", data=str(tmp_path / "bare.npz"))
    table = train_classifier(tmp_path / "table", loss="masked", data={"use": csv, "context": 20, "horizon": 5})
    for folder, what in ((bare, "without labels"), (table, "a table to forecast")):
        with pytest.raises(DataError, match=f"{what}, and a probe needs classes.*--data") as refusal:
            probe(folder)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("labels", "seeds"), [((), (0,)), ((0.0,), (0,)), ((1.5,), (0,)), ((1.0,), ()), ((1.0,), (-1,))]
)
def test_impossible_shares_and_seeds_are_refused(pretrained, labels, seeds):
    with pytest.raises(OptionError, match="such as"):
        probe(pretrained, label_fraction=labels, seeds=seeds)


@pytest.mark.slow
def test_a_run_trained_with_these_labels_is_probed_with_a_warning(run, pretrained, npz, tmp_path):
    notes = []
    probe(run, print_fn=notes.append)
    probe(run, npz, print_fn=notes.append)
    assert len(notes) == 2
    assert all("trained with the labels of these data" in line for line in notes)
    frozen = {"init_from": str(pretrained), "freeze": "tokenizer,encoder"}
    quiet = train_classifier(tmp_path / "frozen", head="linear", data="har-demo", pipeline=frozen)
    probe(pretrained, print_fn=notes.append)
    probe(quiet, print_fn=notes.append)
    assert len(notes) == 2


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(pretrained):
    words = ["probe", str(pretrained), "--label-fraction", "1.0,0.1", "--seeds", "0,1", "--untrained"]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.stdout for word in ("untrained", "majority class", "±", "mean-pooled", "har-demo"))
    printed = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert [r["label_fraction"] for r in printed["results"]] == [1.0, 1.0, 0.1, 0.1]


def test_a_malformed_list_of_label_fractions_is_an_error_with_an_example(pretrained):
    result = CliRunner().invoke(cli, ["probe", str(pretrained), "--label-fraction", "all"], prog_name="tstk")
    assert result.exit_code == 2
    assert "--label-fraction all: expected comma-separated numbers, such as 1.0" in result.stderr


@pytest.mark.slow
def test_settings_chosen_by_the_test_part_are_announced_and_no_worse(pretrained):
    said = []
    honest = find_row(probe(pretrained, classifier="svm"))["accuracy"]
    flattering = find_row(probe(pretrained, classifier="svm", select_on="test", print_fn=said.append))["accuracy"]
    assert flattering >= honest
    assert any("selected on the test split" in line for line in said)


@pytest.mark.slow
def test_settings_chosen_by_folds_are_judged_on_every_row_once(pretrained, monkeypatch):
    pairs = []
    take = probe_classifiers._make_folds
    monkeypatch.setattr(probe_classifiers, "_make_folds", lambda rows: pairs.append((rows, take(rows))) or pairs[-1][1])
    result = probe(pretrained, classifier="svm", select_on="folds")
    assert result["select_on"] == "folds"
    ((rows, folds),) = pairs
    assert len(rows.y) == result["sizes"]["train"] + result["sizes"]["val"] == find_row(result)["count"]
    judged = np.concatenate([judge.x for _, judge in folds])
    np.testing.assert_array_equal(np.unique(judged, axis=0), np.unique(rows.x, axis=0))
    assert len(judged) == len(rows.x)
    for fit, judge in folds:
        assert not (fit.x[:, None] == judge.x[None]).all(-1).any()
        np.testing.assert_allclose(np.bincount(judge.y) / np.bincount(rows.y), 0.2, atol=0.02)


@pytest.mark.slow
def test_folds_of_few_rows_are_fewer(pretrained):
    few = FeatureSet(np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 2]))
    assert len(probe_classifiers._make_folds(few)) == 3
    assert len(probe_classifiers._make_folds(few.subset(np.array([0, 3, 5])))) == 1
    assert (
        find_row(probe(pretrained, classifier="knn", select_on="folds", label_fraction=(0.01,)), share=0.01)["count"]
        == 18
    )


def test_an_unknown_classifier_is_refused_with_the_nearest(pretrained):
    with pytest.raises(UnknownNameError, match=r"No probe is called 'linaer'\. Did you mean 'linear'"):
        probe(pretrained, classifier="linaer")


@pytest.mark.slow
def test_a_label_that_test_lacks_has_no_mean_over_seeds(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for split, count, share in (("train", 60, 0.3), ("test", 20, 0)):
        x = rng.normal(size=(count, 1, 16))
        labels = np.stack([x.mean((1, 2)) > 0, rng.random(count) < share], 1).astype(int)
        arrays |= {f"X_{split}": x, f"y_{split}": labels}
    np.savez(tmp_path / "d.npz", classes=["high", "rare"], **arrays)
    run = train_classifier(tmp_path / "run", loss="masked", data=str(tmp_path / "d.npz"))
    trained, untrained = probe(run, label_fraction=(0.2,), seeds=range(6), untrained=True)["results"]
    assert len({frozenset(trial) for trial in trained["trials"]}) > 1
    for row in (trained, untrained, trained["baselines"]["logistic"]):
        assert "f1 high" in row
        assert "f1 rare" not in row
    assert "margin_f1_macro" in trained
