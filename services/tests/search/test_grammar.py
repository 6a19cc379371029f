"""What a request for a search may say, and what is answered to one that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from synergos.errors import Invalid
from synergos.jobs import Action
from synergos.rest import describe
from synergos.search.order import METRICS, SCHEDULERS, SEARCHERS, SearchOrder, settle
from synergos.search.study import Study

LR = {"_type": "loguniform", "_value": [1e-4, 0.1]}


def read(**changes: Any) -> SearchOrder:
    body = {"search_space": {"lr": LR}, "metric": "R2", "optimize_mode": "max", "seed": 7, **changes}
    return SearchOrder.model_validate({name: value for name, value in body.items() if value != ...})


def refusal(action: Action = "regress", **changes: Any) -> str:
    """Return what a request is answered with."""
    try:
        settle(read(**changes), action)
    except ValidationError as error:
        return describe(error.errors())
    except Invalid as error:
        return error.message
    raise AssertionError("it is taken")


def points(kind: str, *numbers: Any, name: str = "lr", trials: int = 60) -> list[Any]:
    """Return values of a run parameter that is drawn so."""
    space = {name: {"_type": kind, "_value": list(numbers)}}
    order = settle(read(search_space=space, searcher="BasicVariantGenerator", max_trial_num=trials), "regress")
    study = Study(order, "s")
    return [order.values(study.ask(number))[name] for number in range(study.size)]


def test_distributions() -> None:
    assert set(points("choice", "SGD", "Adam", name="optimizer")) == {"SGD", "Adam"}
    assert sorted(points("grid_search", 3, 1, 2, name="rounds")) == [1, 2, 3]
    found = points("uniform", 0.1, 0.3)
    assert 0.1 <= min(found) < 0.13 and 0.27 < max(found) <= 0.3
    assert set(points("quniform", 0.1, 0.3, 0.1)) == {0.1, 0.2, 0.3}
    assert set(points("quniform", 5, 12, 5, name="batch_size")) == {5, 10}
    found = points("loguniform", 1e-4, 1.0)
    assert 1e-4 <= min(found) < 1e-3 and sorted(found)[30] == pytest.approx(1e-2, rel=9)
    found = points("qloguniform", 1, 1000, 1, name="epochs")
    assert all(isinstance(each, int) for each in found) and sorted(found)[30] < 150
    assert set(points("randint", 2, 5, name="epochs")) == {2, 3, 4}
    found = points("randn", 100.0, 2.0, name="lr", trials=200)
    assert sum(found) / 200 == pytest.approx(100, abs=0.6)
    assert sum(abs(each - 100) < 2 for each in found) == pytest.approx(137, abs=25)


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ({"_type": "uniform", "_value": []}, "search_space.lr._value: list should have at least 1 item"),
        ({"_type": "uniform", "_value": [1]}, "search_space.lr: uniform takes [lower, upper], numbers, not [1]"),
        ({"_type": "uniform", "_value": [0.2, "x"]}, "search_space.lr: uniform takes [lower, upper], numbers, not"),
        ({"_type": "uniform", "_value": [0.2, 0.1]}, "search_space.lr: uniform takes [lower, upper] with lower below"),
        ({"_type": "loguniform", "_value": [0, 0.1]}, "search_space.lr: loguniform takes [lower, upper] with lower ab"),
        ({"_type": "quniform", "_value": [0.2, 0.3]}, "search_space.lr: quniform takes [lower, upper, q], numbers, no"),
        (
            {"_type": "quniform", "_value": [1, 2, 0]},
            "search_space.lr: quniform takes [lower, upper, q] with q above 0",
        ),
        (
            {"_type": "quniform", "_value": [1.2, 1.4, 1]},
            "search_space.lr: quniform takes [lower, upper, q], and there is no multiple of 1 from 1.2 to 1.4",
        ),
        ({"_type": "randint", "_value": [1, 2.5]}, "search_space.lr: randint takes [lower, upper], whole numbers"),
        ({"_type": "randn", "_value": [1, 0]}, "search_space.lr: randn takes [mean, sd] with sd above 0"),
        ({"_type": "system", "_value": ["x"]}, "search_space.lr._type: input should be 'choice', 'grid_search', 'unif"),
        ({"_type": "choice"}, "search_space.lr._value: required, but missing"),
        ({"_type": "choice", "_value": [0.1], "x": 1}, "search_space.lr.x: unknown field"),
        ({"_type": "choice", "_value": [0.1, "high"]}, "search_space.lr: input should be a valid number, got 'high'."),
        (
            {"_type": "uniform", "_value": [-1, 1]},
            "search_space.lr: Run parameters: lr = -1.0 must be above 0.",
        ),
    ],
)
def test_spaces_that_cannot_be_searched(searched: Any, message: str) -> None:
    assert refusal(search_space={"lr": searched}).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_space": ...}, "search_space: required, but missing"),
        ({"search_space": {}}, "search_space: dictionary should have at least 1 item"),
        ({"metric": ...}, "metric: required, but missing"),
        ({"optimize_mode": ...}, "optimize_mode: required, but missing"),
        ({"optimize_mode": "up"}, "optimize_mode: input should be 'max' or 'min', got 'up'"),
        ({"metric": "accuracy"}, "metric: 'accuracy' is no figure of regression. Supported: R2, MSE, MAE."),
        ({"metric": "mse"}, "metric: 'mse' is no figure of regression. Did you mean MSE? Supported: R2, MSE, MAE."),
        ({"backend": "nni"}, "backend: Specified backend 'nni' is not supported! Supported: tune"),
        ({"searcher": "Guess"}, f"searcher: 'Guess' is not supported. Supported: {', '.join(SEARCHERS)}"),
        (
            {"scheduler": "PopulationBasedTraining"},
            f"scheduler: 'PopulationBasedTraining' is not supported. Supported: {', '.join(SCHEDULERS)}",
        ),
        ({"max_trial_num": 0}, "max_trial_num: input should be greater than or equal to 1, got 0"),
        ({"max_trial_num": 1001}, "max_trial_num: input should be less than or equal to 1000, got 1001"),
        ({"trial_concurrency": 0}, "trial_concurrency: input should be greater than or equal to 1, got 0"),
        ({"max_exec_duration": "1h30"}, "max_exec_duration: give seconds, or text such as '1h 30m' of whole numbers w"),
        ({"max_exec_duration": "soon"}, "max_exec_duration: give seconds, or text such as '1h 30m' of whole numbers w"),
        ({"max_exec_duration": 0}, "max_exec_duration: give seconds, or text such as '1h 30m' of whole numbers with s"),
        ({"max_exec_duration": True}, "max_exec_duration: give seconds, or text such as '1h 30m' of whole numbers wit"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"trials": 5}, "trials: unknown field"),
        ({"parameters": {"lr": 0.1}}, "parameters.lr: it is searched for, so give it in search_space only."),
        ({"parameters": {"rounds": 0}}, "parameters.rounds: input should be greater than or equal to 1, got 0."),
        ({"parameters": {"mu": -1}}, "parameters: Run parameters: mu = -1.0 must be 0 or more."),
        (
            {"search_space": {"learning_rate": LR}},
            "search_space.learning_rate: Run parameters: 'learning_rate' is unknown.",
        ),
        (
            {"search_space": {"rounds": {"_type": "uniform", "_value": [1, 9]}}},
            "search_space.rounds: input should be a valid integer, got 4.2.",
        ),
    ],
)
def test_orders_that_cannot_be_carried_out(changes: Any, message: str) -> None:
    assert refusal(**changes).startswith(message)


def test_metrics_of_classification() -> None:
    assert "Supported: accuracy, roc_auc_score, pr_auc_score, f_score, TPRs" in refusal("classify", metric="R2")
    settle(read(metric="weighted_f_score"), "classify")


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("1h", 3600), ("1h 30m", 5400), ("2d 1s", 172_801), ("1000", 1000), (90, 90), (0.5, 0.5)],
)
def test_durations(duration: Any, seconds: float) -> None:
    assert read(max_exec_duration=duration).max_exec_duration == seconds


def test_what_is_left_open() -> None:
    first, second = settle(read(seed=...), "regress"), settle(read(seed=...), "regress")
    assert first.seed != second.seed
    assert (first.rounds, first.sampler, first.pruner, first.max_exec_duration) == (10, "tpe", "halving", 3600)
    # Losses of different criteria cannot be compared.
    space = {"lr": LR, "criterion": {"_type": "choice", "_value": ["MSELoss", "L1Loss"]}}
    assert settle(read(search_space=space), "regress").pruner == "none"
    again = SearchOrder.model_validate(first.model_dump(mode="json", by_alias=True))
    assert again == first


def test_values() -> None:
    order = read(metric="accuracy")
    figures = [{"accuracy": [1.0, 0.5], "labels": ["a", "b"]}, {"accuracy": [0.25, None]}, {}]
    assert order.value(figures) == pytest.approx((0.75 + 0.25) / 2)
    with pytest.raises(Invalid, match="The validation has no accuracy: has any participant data to evaluate"):
        order.value([{}, {"MSE": 1.0}])
    for action, known in METRICS.items():
        for metric, mode in known.items():
            assert settle(read(metric=metric), action).loss_sense == (-1 if mode == "max" else 1)
