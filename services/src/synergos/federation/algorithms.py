"""The federated algorithms that a run's `algorithm` may name, with the run parameters that each takes.

The arithmetic is Flower's (`flwr.serverapp.strategy`); names and defaults are those of its constructors except where
they would do nothing (`server_momentum` 0, no participant to select) or say two things (`beta`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synergos.errors import Invalid


class Settings(BaseModel):
    """An algorithm's own run parameters."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @property
    def least(self) -> int:
        """Participants that a round needs at least."""
        return 1


class Averaging(Settings):
    """FedAvg and FedProx; with both parameters under central differential privacy.

    Attributes:
        clipping_norm: largest L2 norm of a participant's update; what is longer is shortened.
        noise_multiplier: standard deviation of the noise on the sum of the updates, over the clipping norm.
    """

    clipping_norm: float | None = Field(None, gt=0)
    noise_multiplier: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.clipping_norm is None) != (self.noise_multiplier is None):
            raise ValueError("clipping_norm and noise_multiplier go together: give both or neither")
        return self


class FedAvgM(Settings):
    """Server momentum on the mean update."""

    server_learning_rate: float = Field(1.0, gt=0)
    server_momentum: float = Field(0.9, ge=0, lt=1)


class FedAdagrad(Settings):
    """Adagrad of the server on the mean update: `eta` is its learning rate, `tau` is added to the root."""

    eta: float = Field(0.1, gt=0)
    tau: float = Field(1e-3, gt=0)


class FedAdam(FedAdagrad):
    """Adam of the server on the mean update."""

    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.99, ge=0, lt=1)


class FedYogi(FedAdam):
    """Yogi of the server on the mean update."""

    eta: float = Field(0.01, gt=0)


class QFedAvg(Settings):
    """Weighs participants by their loss to the power of `q`, for results of similar quality.

    Attributes:
        client_learning_rate: None for the run's `lr`.
    """

    q: float = Field(0.1, ge=0)
    client_learning_rate: float | None = Field(None, gt=0)


class FedMedian(Settings):
    """The median of each weight."""

    @property
    def least(self) -> int:
        return 3  # the median of two is their mean


class FedTrimmedAvg(Settings):
    """The mean of each weight without the largest and the smallest share `cut_fraction` (Flower's `beta`)."""

    cut_fraction: float = Field(0.2, gt=0, lt=0.5)

    @property
    def least(self) -> int:
        return next(n for n in range(1, 2 + int(1 / self.cut_fraction)) if int(self.cut_fraction * n))


class Krum(Settings):
    """The update that is closest to the others."""

    num_malicious_nodes: int = Field(1, ge=0)

    @property
    def least(self) -> int:
        return 2 * self.num_malicious_nodes + 3


class MultiKrum(Krum):
    """The mean of the updates that are closest to the others.

    Attributes:
        num_nodes_to_select: None for all but `num_malicious_nodes`.
    """

    num_nodes_to_select: int | None = Field(None, ge=1)

    @property
    def least(self) -> int:
        return max(super().least, self.num_malicious_nodes + (self.num_nodes_to_select or 1))


class Bulyan(Krum):
    """MultiKrum, then the mean of what is closest to the median of each weight."""

    @property
    def least(self) -> int:
        return 4 * self.num_malicious_nodes + 3


SETTINGS: dict[str, type[Settings]] = {
    "FedProx": Averaging,
    "FedAvg": Averaging,
    "FedAvgM": FedAvgM,
    "FedAdagrad": FedAdagrad,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
    "QFedAvg": QFedAvg,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": Krum,
    "MultiKrum": MultiKrum,
    "Bulyan": Bulyan,
}
# Algorithm -> names of its own run parameters (`mu` of FedProx is a field of every run).
ALGORITHMS: dict[str, frozenset[str]] = {name: frozenset(model.model_fields) for name, model in SETTINGS.items()}
_TREES = "it joins trees of XGBoost, and a model here is a network"
_SECURE = "Flower has it for its legacy server only, see docs/algorithms.md"
_FIXED = "give FedAvg or FedProx a clipping_norm and a noise_multiplier; the TTP clips by the same arithmetic"
_ADAPTIVE = "Flower 1.42 moves its clipping norm the wrong way: give FedAvg or FedProx a clipping_norm that stays"
REFUSED: dict[str, str] = {
    "FedGKT": "it sends every participant's labels and features to the orchestrator",
    "FedSplit": "the original never implemented it",
    "FedSwarm": "the original never implemented it",
    "FedPrune": "the original never implemented it",
    "FedOpt": "it is the common base of FedAdagrad, FedAdam and FedYogi: name one of them",
    **dict.fromkeys(("FedXgbBagging", "FedXgbCyclic"), _TREES),
    **dict.fromkeys(("SecAgg", "SecAggPlus"), _SECURE),
    **dict.fromkeys((f"DifferentialPrivacy{side}SideFixedClipping" for side in ("Server", "Client")), _FIXED),
    **dict.fromkeys((f"DifferentialPrivacy{side}SideAdaptiveClipping" for side in ("Server", "Client")), _ADAPTIVE),
}


def read(algorithm: str, free: Mapping[str, Any], participants: int) -> Settings:
    """Return the checked settings of an algorithm.

    Args:
        algorithm: a key of `ALGORITHMS`.
        free: the run's free parameters; those of criterion, optimiser and schedule are passed over.
        participants: how many at least take part in each round.

    Raises:
        Invalid: a parameter is out of bounds or belongs to another algorithm, or the participants are too few.
    """
    every = frozenset().union(*ALGORITHMS.values())
    if strange := sorted(free.keys() & every - ALGORITHMS[algorithm]):
        takers = [name for name, own in ALGORITHMS.items() if strange[0] in own]
        raise Invalid(f"{strange[0]} has no effect with algorithm {algorithm}: it belongs to {', '.join(takers)}.")
    try:
        settings = SETTINGS[algorithm](**{key: free[key] for key in free.keys() & ALGORITHMS[algorithm]})
    except ValidationError as error:
        wrong = (
            f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" if e["loc"] else e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
        raise Invalid(f"algorithm {algorithm}: {'; '.join(wrong)}.") from None
    if participants < settings.least:
        raise Invalid(
            f"algorithm {algorithm} with these parameters needs at least {settings.least} participants in every "
            f"round, and here are {participants}: register more, raise min_participants, or take another algorithm."
        )
    return settings
