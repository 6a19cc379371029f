"""Federated training: alignment, models, and the two ends of a round on Flower's message API."""

from __future__ import annotations


def warm_up() -> None:
    """Load torch and Flower and take one small step, so that no round has to wait for it (about two seconds).

    Safe to call more than once and from any thread.
    """
    import numpy as np

    from synergos.federation import client, strategy, training
    from synergos.federation.layers import Network
    from synergos.federation.parameters import Parameters
    from synergos.federation.sessions import Split

    del client, strategy  # loaded, which is all
    network = Network(
        [{"l_type": "Linear", "structure": {"in_features": 2, "out_features": 1}, "activation": "sigmoid"}]
    )
    parameters = Parameters.read({"epochs": 2, "batch_size": 2})
    objective = parameters.objective("classify", network.final, 1)
    split = Split(np.eye(4, 2, dtype=np.float32), np.ones((4, 1), dtype=np.float32))
    data = training.Labelled.of(split, objective, "train")
    training.fit(network, data, parameters, objective, training.Turn(1, 1), mu=0.1, is_open=lambda: True)
    training.evaluate(network, data, objective)
