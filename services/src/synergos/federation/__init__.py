"""Federated training: alignment, models, and the two ends of a round on Flower's message API."""

from __future__ import annotations


def warm_up(threads: int | None = None) -> None:
    """Load torch and Flower and take one small step, so that no round has to wait for it (about two seconds).

    Safe to call more than once and from any thread.

    Args:
        threads: cores that torch may use for one operation; None leaves torch's own choice.
    """
    import numpy as np
    import torch

    from synergos.federation import strategy, training
    from synergos.federation.layers import Network
    from synergos.federation.parameters import Parameters
    from synergos.federation.sessions import Split

    if threads is not None:
        torch.set_num_threads(max(1, threads))
    del strategy
    network = Network(
        [{"l_type": "Linear", "structure": {"in_features": 2, "out_features": 1}, "activation": "sigmoid"}]
    )
    parameters = Parameters.read({"epochs": 2, "batch_size": 2})
    objective = parameters.objective("classify", network.final, 1)
    split = Split(np.eye(4, 2, dtype=np.float32), np.ones((4, 1), dtype=np.float32))
    data = training.Labelled.of(split, objective, "train")
    training.fit(network, data, parameters, objective, training.Turn(1, 1), mu=0.1, is_open=lambda: True)
    training.evaluate(network, data, objective)
