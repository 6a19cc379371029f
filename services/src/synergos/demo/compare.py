"""The same model without federation: trained on all participants' rows together, and by each participant alone.

Preparation, training, inference and metrics are the worker's and the federation's own code. All models see the rows as
the federated workers saw them, in the layout and scaling that all participants agreed on, and take as many rounds of
as many epochs; what differs is only whose rows they learn from.
"""

from __future__ import annotations

import sys
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
from synergos.jobs import Action, Meta, Tags
from synergos.worker import datasets, outputs
from synergos.worker.prepared import Aligned

Statistics = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What all models have in common.

    Attributes:
        model: layers, fitted to the layout.
        sets: participant -> meta -> rows in the agreed layout.
    """

    action: Action
    parameters: Parameters
    model: list[dict[str, Any]]
    sets: dict[str, dict[Meta, Aligned]]

    @classmethod
    def of(cls, settings: Settings) -> Study:
        """Read every participant's data sets and agree as the TTP does."""
        prepared, sets = {}, {}
        # The rows stay readable when the folder is gone: open files only lose their names.
        with tempfile.TemporaryDirectory() as folder:
            for participant in settings.participants:
                own = Path(folder, participant.participant_id)
                own.mkdir()
                tags = {meta: [settings.tag(participant, meta)] for meta in ("train", "evaluate", "predict")}
                prepared[participant.participant_id] = datasets.prepare(
                    settings.example.parent, Tags(**tags), settings.action, own
                )
            polls = {name: alignment.Poll.read(name, each.told()) for name, each in prepared.items()}
            layout = alignment.agree(polls)
            for name, each in prepared.items():
                sets[name] = datasets.aligned(each, layout, settings.action)
        return cls(
            action=settings.action,
            parameters=Parameters.read(settings.run_parameters),
            model=alignment.fit_model(settings.read("architecture.json"), layout, settings.action),
            sets=sets,
        )

    def objective(self, split: Split) -> Objective:
        """Return the run's criterion for the model on rows like those of `split`."""
        outline, width = probe(self.model, split.X.shape[1:])
        return self.parameters.objective(self.action, outline.final, width)

    def train(self, names: Sequence[str]) -> tuple[Network, Objective]:
        """Train on the rows of the named participants in one place, without a proximal term."""
        splits = [self.sets[name]["train"].split for name in names]
        labels = [split.y for split in splits if split.y is not None]
        pooled = Split(np.concatenate([split.X for split in splits]), np.concatenate(labels))
        objective = self.objective(pooled)
        data = training.Labelled.of(pooled, objective, "train")
        torch.manual_seed(self.parameters.seed)
        network = Network(self.model)
        plateau = None
        for number in range(1, self.parameters.rounds + 1):
            _, plateau = training.fit(
                network,
                data,
                self.parameters,
                objective,
                training.Turn(1, number),
                mu=0.0,
                is_open=lambda: True,
                plateau=plateau,
            )
        return network, objective

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
        rows = {name: len(self.sets[name]["evaluate"].rows) for name in own}
        return {**own, "overall": figures.overall([(rows[name], own[name]) for name in own])}


def compare(settings: Settings, driver: Driver) -> Result:
    """Return the figures of all models on the same evaluate sets; the federated ones come from the TTP's records.

    `failure` says so where the federated model is no better than chance.
    """
    records = expect(driver.validations.read(*settings.keys), "Reading the validations")
    federated = {record["key"]["participant_id"]: record["evaluate"]["statistics"] for record in records}
    study = Study.of(settings)
    if federated.keys() != study.sets.keys():
        raise PhaseFailed(
            f"The run was validated by {', '.join(sorted(federated))}, but {', '.join(study.sets)} take part: "
            "run the phases from register on."
        )
    found = {"federated": study.figures(federated)}
    learners = {"central": list(study.sets), **{f"{name} alone": [name] for name in study.sets}}
    for title, names in learners.items():
        print(f"compare: {title}", file=sys.stderr)
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
