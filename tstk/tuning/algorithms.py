"""What Optuna does in a search: drawing options, deciding which trials to stop, and the importance of options."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from tstk.errors import OptionError
from tstk.plugins.distribution import format_install_command
from tstk.tuning.results import TuneResult

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

PrunerName = Literal["median", "hyperband", "none"]

MIN_TRIALS_FOR_IMPORTANCE = 10


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Check that Optuna is installed, and leave what it logs and warns of out.

    Raises:
        OptionError: it is not installed
    """
    try:
        import optuna
    except ImportError as e:
        raise OptionError(
            f"tuning needs Optuna, which is not installed ({e}): {format_install_command('tune')}"
        ) from None
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def make_sampler(seed: int, place: int, attempt: int) -> BaseSampler:
    """Return the sampler of one trial: TPE, or random where TPE drew options that were tried before.

    Args:
        seed: of the search
        place: of the trial among those that count
        attempt: how often options were drawn for it before
    """
    from optuna.samplers import RandomSampler, TPESampler

    trial_seed = (seed * 1_000_003 + place * 101 + attempt) % 2**32
    return RandomSampler(trial_seed) if attempt else TPESampler(seed=trial_seed, constant_liar=True)


def make_pruner(name: PrunerName) -> BasePruner:
    """Return the pruner of this name; see `TuneSettings`."""
    from optuna import pruners

    makers: dict[str, type[BasePruner]] = {
        "median": pruners.MedianPruner,
        "hyperband": pruners.HyperbandPruner,
        "none": pruners.NopPruner,
    }
    return makers[name]()


def compute_importance(study: Study, result: TuneResult, seed: int) -> dict[str, float]:
    """Return how much of the variance of the scores each option explains, by fANOVA over the finished trials.

    Args:
        study: of Optuna
        result: of its trials
        seed: of the trees

    Returns:
        option -> share; empty if there are too few trials, or their scores are equal
    """
    scores = {trial.score for trial in result.ranking}
    if len(result.ranking) < MIN_TRIALS_FOR_IMPORTANCE or len(scores) < 2:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    common = set.intersection(*(set(trial.options) for trial in result.ranking if trial.options))
    names = [name for name in result.ranking[0].options or result.ranking[1].options if name in common]
    try:
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed), params=names))
    except (RuntimeError, ValueError):  # every option has one value, or the trees explain no variance
        return {}
