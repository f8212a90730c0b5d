"""A mix is tried on every task that its loss and head both serve."""

import pytest

from tstk.builtin.losses.regression import MSE
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry
from tstk.testing.mixes import list_tasks, try_mix


class ClassesOrNumbers(MSE):
    """A loss that claims to serve classes too, and does not."""

    target_types = ("numbers", "class")

    def forward(self, step_output):
        """Fail on classes."""
        if step_output.series.y.ndim == 1:
            raise ValueError("classes have no distance")
        return super().forward(step_output)


def find_parts(**names):
    return {slot: get_registry().find(slot, name) for slot, name in names.items()}


SMALL = {"tokenizer": "patch", "encoder": "identity", "head": "linear"}


@pytest.mark.parametrize(
    ("loss", "head", "tasks"),
    [
        ("mse", "linear", ("regression",)),
        ("binary-cross-entropy", "cot", ("multilabel",)),
        ("cross-entropy", "forecast", ("classification", "segmentation")),  # none is shared, so the loss is refused
        ("forecast", "forecast", ("forecasting",)),
    ],
)
def test_the_tasks_of_a_mix_are_those_that_loss_and_head_serve(loss, head, tasks):
    assert list_tasks(find_parts(loss=loss, head=head)) == tasks


def test_pretraining_has_no_task():
    parts = find_parts(tokenizer="patch", encoder="identity", loss="masked", decoder="transformer")
    assert list_tasks(parts) == ()


def test_a_mix_that_fails_on_one_of_its_tasks_has_failed():
    get_registry().add(Entry("loss", "either", ClassesOrNumbers, "Two types of targets", dist="local"))
    mix = try_mix(find_parts(**SMALL, loss="either"))
    assert mix.tasks == ("regression", "classification")
    assert (mix.state, mix.reason) == ("failed", "ValueError: classes have no distance")
    assert try_mix(find_parts(**SMALL, loss="mse")).state == "trained"
