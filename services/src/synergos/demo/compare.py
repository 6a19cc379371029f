"""The same model without federation: trained on all participants' rows together, and by each participant alone.

Preparation, training, inference and metrics are the worker's and the federation's own code. All models see the rows as
the federated workers saw them, in the layout and scaling that all participants agreed on, take as many rounds of as
many epochs, and keep the weights of the round that does best on the learner's own evaluate rows; what differs is only
whose rows they learn from.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synergos import Driver
from synergos.demo import figures
from synergos.demo.phases import PhaseFailed, Result, expect
from synergos.demo.settings import Settings
from synergos.federation import alignment, training
from synergos.federation.layers import Network, probe
from synergos.federation.objectives import Objective
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Split
from synergos.jobs import METAS, Action, Layout, Meta, Tags
from synergos.worker import datasets, outputs
from synergos.worker.prepared import Aligned

Statistics = dict[str, Any]
# The worker's own default.
MINIMUM_ROWS = 5


@dataclass(frozen=True)
class Study:
    """What all models have in common.

    Attributes:
        model: layers, fitted to the layout.
        sets: participant -> meta -> rows in the agreed layout.
    """

    action: Action
    parameters: Parameters
    layout: Layout
    model: list[dict[str, Any]]
    sets: dict[str, dict[Meta, Aligned]]

    @classmethod
    def of(cls, settings: Settings, folder: Path) -> Study:
        """Read every participant's data sets, prepare them below `folder`, and agree as the TTP does."""
        prepared = {}
        for participant in settings.participants:
            name = participant.participant_id
            (folder / name).mkdir()
            prepared[name] = datasets.prepare(
                settings.example.parent,
                Tags(**{meta: [settings.tag(participant, meta)] for meta in METAS}),
                settings.action,
                folder / name,
                minimum_rows=MINIMUM_ROWS,
            )
        layout = alignment.agree({name: alignment.Poll.read(name, own.told()) for name, own in prepared.items()})
        return cls(
            action=settings.action,
            parameters=Parameters.read(settings.run_parameters),
            layout=layout,
            model=alignment.fit_model(settings.read("architecture.json"), layout, settings.action),
            sets={name: datasets.aligned(own, layout, settings.action) for name, own in prepared.items()},
        )

    def objective(self) -> Objective:
        """Return the run's criterion for the model."""
        outline, width = probe(self.model, self.layout.row_shape)
        weights = self.parameters.class_weights
        if weights == "balanced":
            rows = [self.layout.counts[name] for name in self.layout.y]
            weights = [sum(rows) / (len(rows) * count) for count in rows]
        return self.parameters.objective(self.action, outline.final, width, weights)

    def train(self, names: Sequence[str]) -> tuple[Network, Objective]:
        """Train on the rows of the named participants in one place, without a proximal term."""
        objective = self.objective()
        data, held = (self._labelled(names, meta, objective) for meta in ("train", "evaluate"))
        torch.manual_seed(self.parameters.seed)
        network = Network(self.model)
        stagnation = training.Stagnation(self.parameters.patience, self.parameters.delta)
        best, weights, schedule = math.inf, network.state_dict(), None
        for number in range(1, self.parameters.rounds + 1):
            _, schedule = training.fit(
                network,
                data,
                self.parameters,
                objective,
                training.Turn(1, number),
                mu=0.0,
                is_open=lambda: True,
                schedule=schedule,
            )
            loss = training.evaluate(network, held, objective)
            if loss < best:
                best, weights = loss, copy.deepcopy(network.state_dict())
            if stagnation.after(loss):
                break
        network.load_state_dict(weights)
        return network, objective

    def _labelled(self, names: Sequence[str], meta: Meta, objective: Objective) -> training.Labelled:
        """Return the rows of the named participants together."""
        splits = [self.sets[name][meta].split for name in names]
        labels = [split.y for split in splits if split.y is not None]
        pooled = Split(np.concatenate([split.X for split in splits]), np.concatenate(labels))
        return training.Labelled.of(pooled, objective, meta)

    def evaluate(self, network: Network, objective: Objective) -> dict[str, Statistics]:
        """Return the statistics of `network` on every participant's evaluate set."""
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, own in self.sets.items():
                data = own["evaluate"]
                outcome = training.infer(network, data.split.X, objective)
                result = outputs.write_inference(Path(folder), "evaluate", data, self.action, *outcome)
                found[name] = result["statistics"]
        return found

    def figures(self, statistics: dict[str, Statistics]) -> dict[str, figures.Figures]:
        """Return the figures of one model per participant, and `overall`."""
        own = {name: figures.of_statistics(self.action, entry) for name, entry in statistics.items()}
        truth = {name: self.sets[name]["evaluate"].truth for name in own}
        spread = float(np.var(np.concatenate(list(truth.values())))) if self.action == "regress" else None
        return {**own, "overall": figures.overall([(len(truth[name]), own[name]) for name in own], spread)}


def compare(settings: Settings, driver: Driver) -> Result:
    """Return the figures of all models on the same evaluate sets; the federated ones come from the TTP's records.

    `failure` says so where the federated model is no better than chance.
    """
    records = expect(driver.validations.read(*settings.keys), "Reading the validations")
    federated = {record["key"]["participant_id"]: record["evaluate"]["statistics"] for record in records}
    with tempfile.TemporaryDirectory() as folder:
        study = Study.of(settings, Path(folder))
        if federated.keys() != study.sets.keys():
            raise PhaseFailed(
                f"The run was validated by {', '.join(sorted(federated))}, but {', '.join(study.sets)} take part: "
                "run the phases from register on."
            )
        found = {"federated": study.figures(federated)}
        learners = {"central": list(study.sets), **{f"{name} alone": [name] for name in study.sets}}
        for title, names in learners.items():
            found[title] = study.figures(study.evaluate(*study.train(names)))

    metric = figures.METRICS[settings.action][0]
    reached = found["federated"]["overall"][metric]
    chance = figures.chance(settings.action, list(federated.values()))
    failure = (
        f"The federated model is not better than chance: its {metric} on the evaluate sets is {reached:.3f}, "
        f"and {chance:.3f} needs no model. Check the run parameters (rounds, epochs, lr) and the data."
    )
    return {
        "figures": found,
        "chance": {metric: chance},
        "failure": failure if reached <= chance else None,
        "table": figures.table({title: each["overall"] for title, each in found.items()}, settings.action),
    }
