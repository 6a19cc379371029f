"""What Optuna has to say about a search: the next point, and whether a trial is worth going on with.

The study is in memory only. It is made anew from the records of the trials at each start, and the random numbers of a
trial come from the seed and its number, so that nothing of it needs to be stored beside them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from synergos.search.order import SearchOrder
from synergos.search.space import Range
from synergos.search.trials import Trial

# Of so many trials that are compared, one goes on.
REDUCTION = 2
# A trial is not compared with others before this share of its rounds is over.
_GRACE = 0.4
# Rounds of a trial at which it is compared with others.
_REPORTS = 100
# Optuna learns nothing from trials that fail, but where some fail others will: they count as the worst there are.
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.COMPLETE}
_RUNG = "completed_rung_"

optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The study of one search.

    Args:
        name: of the search; decides which of its trials are compared with each other by `hyperband`.
    """

    def __init__(self, order: SearchOrder, name: str) -> None:
        self._order = order
        self._stride = max(1, order.rounds // _REPORTS)
        self._space = {key: _distribution(found) for key, found in order.search_space.items()}
        listed = {key: found for key, found in order.search_space.items() if found.kind == "grid_search"}
        self._grid = [
            dict(zip(listed, points, strict=True))
            for points in itertools.product(*(range(len(found.value)) for found in listed.values()))
        ]
        # A budget that does not reach all of them shall not leave out a corner.
        random.Random(order.seed).shuffle(self._grid)
        self._study = optuna.create_study(
            study_name=name,
            direction="maximize" if order.optimize_mode == "max" else "minimize",
            pruner=_pruner(order),
        )
        self._open: dict[int, optuna.Trial] = {}

    @property
    def size(self) -> int:
        """Trials after which there is nothing left to try; as many as may be if something is drawn."""
        everything = all(found.kind == "grid_search" for found in self._order.search_space.values())
        return min(self._order.max_trial_num, len(self._grid)) if everything else self._order.max_trial_num

    def restore(self, trial: Trial) -> None:
        """Take in a trial of an earlier process; in the order of their numbers."""
        if trial.state == "running":
            self._study.sampler = optuna.samplers.RandomSampler()
            self._study.enqueue_trial(trial.point)
            self._open[trial.number] = self._study.ask(self._space)
            return
        sense = self._order.loss_sense
        self._study.add_trial(
            optuna.create_trial(
                state=_STATES[trial.state],
                value=self._worth(trial),
                params=trial.point,
                distributions=self._space if trial.point else {},
                intermediate_values={int(step): sense * loss for step, loss in trial.reports.items()},
                system_attrs={_RUNG + name: sense * loss for name, loss in trial.rungs.items()},
            )
        )

    def ask(self, number: int) -> dict[str, float]:
        """Return the point of the next trial."""
        self._study.sampler = self._sampler(number)
        # The points of the grid in turn; what is not of it is drawn.
        self._study.enqueue_trial(self._grid[number % len(self._grid)])
        trial = self._study.ask(self._space)
        assert trial.number == number
        self._open[number] = trial
        return dict(trial.params)

    def report(self, number: int, losses: Mapping[int, float]) -> bool:
        """Take in the losses of a trial by round, and tell whether it is to end.

        The lowest one up to a round counts, since that round's weights are what a training keeps.
        """
        trial, sense = self._open[number], self._order.loss_sense
        known = self._frozen(number).last_step or 0
        lowest = math.inf
        for step, loss in sorted(losses.items()):
            lowest = min(lowest, loss)
            if step > known and step % self._stride == 0:
                trial.report(sense * lowest, step)
                if trial.should_prune():
                    return True
        return False

    def note(self, trial: Trial) -> None:
        """Note in a trial what the pruner saw of it."""
        found, sense = self._frozen(trial.number), self._order.loss_sense
        trial.reports = {str(step): sense * loss for step, loss in found.intermediate_values.items()}
        trial.rungs = {
            name.removeprefix(_RUNG): sense * loss
            for name, loss in found.system_attrs.items()
            if name.startswith(_RUNG)
        }

    def tell(self, trial: Trial) -> None:
        """Take in how a trial ended."""
        self._study.tell(self._open.pop(trial.number), self._worth(trial), state=_STATES[trial.state])

    def _worth(self, trial: Trial) -> float | None:
        worst = -math.inf if self._order.optimize_mode == "max" else math.inf
        return worst if trial.state == "failed" else trial.value

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        order = self._order
        seed = random.Random(f"{order.seed} {number}").getrandbits(32)
        if order.sampler == "random":
            return optuna.samplers.RandomSampler(seed)
        # At random first, but not with most of a small budget.
        startup = max(3, min(10, order.max_trial_num // 4))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


def _distribution(found: Range) -> BaseDistribution:
    if found.listed:
        return CategoricalDistribution(range(len(found.value)))
    if found.kind in ("randint", "quniform", "qloguniform"):
        return IntDistribution(*found.steps, log=found.kind == "qloguniform")
    return FloatDistribution(*found.bounds, log=found.kind == "loguniform")


def _pruner(order: SearchOrder) -> optuna.pruners.BasePruner:
    first = max(1, round(order.rounds * _GRACE))
    if order.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if order.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=order.rounds, reduction_factor=REDUCTION)
    if order.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=first)
    return optuna.pruners.NopPruner()
