"""The federated algorithms that a run's `algorithm` may name, with the run parameters that each takes."""

from __future__ import annotations

# Algorithm -> names of its own run parameters (`mu` is a field of every run).
ALGORITHMS: dict[str, frozenset[str]] = {
    "FedProx": frozenset(),
    "FedAvg": frozenset(),
}
REFUSED: dict[str, str] = {
    "FedGKT": "it sends every participant's labels and features to the orchestrator",
    "FedSplit": "the original never implemented it",
    "FedSwarm": "the original never implemented it",
    "FedPrune": "the original never implemented it",
}
