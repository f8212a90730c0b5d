"""The search space of `tstk tune`: forms of ranges and choices, and faults found before anything is trained."""

import pytest

from tstk.errors import OptionError
from tstk.tuning.space import SearchSpace, parse_search

BASE = [("test", {"encoder": {"use": "transformer"}, "head": {"use": "linear"}})]


def make_space(search, layers=BASE):
    return SearchSpace(layers, parse_search(search))


class FirstTrial:
    """Draws the first choice, or the lower end of a range, as an Optuna trial would be asked to."""

    def __init__(self, **choices):
        self.choices = choices

    def suggest_categorical(self, name, choices):
        return self.choices.get(name, choices[0])

    def suggest_int(self, name, low, high, step, log):
        return low

    def suggest_float(self, name, low, high, step, log):
        return low


def test_ranges_and_choices_have_the_type_of_their_option():
    space = make_space(
        ["encoder.depth=1..4", "lr=1e-4..1e-2:log", "--encoder.dim=64..256:64", "mixup=0..0.5:0.1", "patience=none,5"]
    )
    depth, dim, lr, mixup, patience = sorted(space.dimensions, key=lambda d: d.path)
    assert (depth.is_integer, depth.low, depth.high, depth.step, depth.log) == (True, 1, 4, None, False)
    assert (dim.is_integer, dim.low, dim.high, dim.step) == (True, 64, 256, 64)
    assert (lr.is_integer, lr.log, lr.low, lr.high) == (False, True, 1e-4, 1e-2)
    assert (mixup.is_integer, mixup.step) == (False, 0.1)
    assert patience.choices == ("none", "5")


def test_lists_tables_and_names_of_python_say_the_same_as_text():
    expected = parse_search(["encoder=bert,transformer", "encoder.depth=1..2", "encoder.cls=true,false", "lr=0.1,0.2"])
    written = {"encoder": {"use": ["bert", "transformer"], "depth": "1..2", "cls": [True, False]}, "lr": [0.1, 0.2]}
    assert parse_search(written) == expected
    assert parse_search({"encoder__depth": "1..2"}) == [expected[1]]


def test_options_of_a_component_are_drawn_only_where_it_is():
    space = make_space(["tokenizer.width=8..16:4", "tokenizer=patch,inception", "tokenizer.window=4,8", "lr=0.1"])
    assert space.suggest(FirstTrial()) == {"tokenizer": "patch", "tokenizer.window": "4", "lr": "0.1"}
    values = space.suggest(FirstTrial(tokenizer="inception"))
    assert values == {"tokenizer": "inception", "tokenizer.width": 8, "tokenizer.window": "4", "lr": "0.1"}
    config = space.resolve(values)
    assert config.values["tokenizer"]["width"] == 8
    assert config.values["train"]["lr"] == 0.1
    assert config.sources["tokenizer.width"] == "search"


def test_the_partner_of_a_drawn_component_is_its_own_default():
    space = make_space({"loss": ["masked", "contrastive"]}, [("test", {"encoder": {"use": "transformer"}})])
    partners = {str(space.resolve({"loss": loss}).component("decoder")) for loss in ("masked", "contrastive")}
    assert len(partners) == 2, "the decoder of the first loss was kept for the second"


def test_the_values_of_the_config_itself_are_found_in_the_space():
    inside = make_space(
        ["encoder.depth=1..4", "encoder=tstk/transformer,bert", "lr=1e-4..1e-2:log", "encoder.cls=true,false"]
    )
    expected = {"encoder": "tstk/transformer", "encoder.depth": 3, "lr": 1e-3, "encoder.cls": "false"}
    assert inside.describe_base() == (expected, [])
    _, outside = make_space(["encoder.depth=4..9", "encoder.dim=32..160:32", "lr=0.5"]).describe_base()
    assert outside == ["lr is 0.001, which is not in 0.5", "encoder.depth is 3, which is not in 4..9"]


@pytest.mark.parametrize(
    ("search", "fault"),
    [
        (["encoder.dept=1..4"], "search encoder.dept: there is no such option. Did you mean 'depth'?"),
        (["learning_rate=1e-4..1e-2"], "search learning_rate: there is no such option. Did you mean 'lr'?"),
        (["train.lr=1e-4..1e-2"], "Options of [train] have no prefix: lr."),
        (["decoder.depth=1..2"], "No pipeline of this search has a decoder; select one with --decoder."),
        (["encoder=transfomer,bert"], "No encoder is called 'transfomer'. Did you mean 'transformer'?"),
        (["encoder.norm=pre,pst"], "search encoder.norm=pre,pst is 'pst'; expected pre|post"),
        (["encoder.norm=1..2"], "this option is pre|post and has no range; give choices, such as pre,post"),
        (["encoder.depth=0.5..2"], "search encoder.depth=0.5..2 is 0.5; expected int"),
        (["encoder.depth=1..4000"], "is 4000; expected int, 0 or more and 1000 or less"),
        (["encoder.dim=64..256:0.5"], "the option is an integer, and 0.5 is no integer step"),
        (["lr=-1..1"], "search lr=-1..1 is -1.0; expected float, 0 or more"),
        (["lr=0..1:log"], "a logarithm needs ends above 0"),
        (["lr=1..0.1"], "the first end of a range is the smaller one"),
        (["lr=0.1..0.2:lgo"], "lgo is neither log nor a step"),
        (["encoder.dim=64..200:64"], "steps of 64 do not end at 200; nearby ends: 192, 256"),
        (["encoder.norm=pre,"], "a choice is empty"),
        (["encoder.norm=pre,pre"], "a choice occurs twice"),
        (["lr"], "--search lr: expected a range such as 1..4"),
        (["seed=0..9"], "search seed: a seed that validates best is chance"),
        (["val_fraction=0.1..0.3"], "it decides what is validated"),
        (["encoder=1..2"], "name components, such as encoder=a,b"),
        ([], "nothing to search: give --search OPTION=VALUES"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_remedy(search, fault):
    with pytest.raises(OptionError) as caught:
        make_space(search)
    assert fault in str(caught.value)


def test_all_faults_are_reported_together():
    with pytest.raises(OptionError) as caught:
        make_space(["encoder.dept=1..4", "encoder.norm=1..2", "lr=-1..1"])
    assert len(str(caught.value).splitlines()) == 3
