"""Flower's strategies as algorithms of a run: settings, arithmetic, and what they make of a model with buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from test_rounds import federate
from worker_double import Worker, linear, separable

from synergos.errors import GridFailure, Invalid
from synergos.federation import algorithms, codec, identity
from synergos.federation.aggregation import Aggregation
from synergos.federation.parameters import Parameters

Start = Callable[..., list[Worker]]
Values = dict[str, Any]
identity.adopt()


def record(**arrays: Any) -> ArrayRecord:
    made = ArrayRecord()
    for name, values in arrays.items():
        made[name] = codec.to_array(np.asarray(values))
    return made


def reply(node: int, rows: int, loss: float = 1.0, **arrays: Any) -> Message:
    content = RecordDict(
        {"arrays": record(**arrays), "metrics": MetricRecord({"num-examples": rows, "train-loss": loss})}
    )
    return Message(content, reply_to=Message(RecordDict(), node, "train"))


class Server:
    """The aggregation of one run, given by hand what participants would send."""

    def __init__(self, values: Values, participants: int, weights: ArrayRecord, *buffers: str) -> None:
        self.weights = weights
        trained = frozenset(weights) - set(buffers)
        self.aggregation = Aggregation(Parameters.read(values), participants, participants, trained, weights)
        self.round = 0

    def take(self, *replies: Message) -> dict[str, Any]:
        self.round += 1
        self.aggregation.configure(self.round, self.weights, ConfigRecord(), None)  # type: ignore[arg-type]
        self.weights = self.aggregation.aggregate(self.round, replies, self.weights)
        return {name: array.numpy() for name, array in self.weights.items()}


def f32(*values: float) -> Any:
    return np.asarray(values, dtype=np.float32)


@pytest.mark.parametrize("algorithm", ["FedAvg", "FedProx"])
def test_the_mean_is_flowers_to_the_bit(algorithm: str) -> None:
    random = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"wide": (300, 250), "bias": (7,), "single": (), "none": (0, 3)}

    def arrays() -> Values:
        floats = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        return {**floats, "double": random.normal(size=5), "count": np.asarray(random.integers(9), np.int64)}

    replies = [reply(node, rows, **arrays()) for node, rows in ((1, 3), (2, 70), (3, 11))]
    weights = record(**arrays())
    server = Server({"algorithm": algorithm, **({"mu": 0.1} if algorithm == "FedProx" else {})}, 3, weights)
    ours = server.take(*replies)
    theirs, _ = getattr(flower, algorithm)(**({"proximal_mu": 0.1} if algorithm == "FedProx" else {})).aggregate_train(
        1,
        [
            reply(
                r.metadata.src_node_id,
                int(r.content["metrics"]["num-examples"]),
                **{name: array.numpy() for name, array in r.content["arrays"].items()},
            )
            for r in replies
        ],
    )
    for name, array in theirs.items():
        expected = np.rint(array.numpy()).astype(np.int64) if name == "count" else array.numpy()
        assert ours[name].dtype == expected.dtype
        np.testing.assert_array_equal(ours[name], expected)


def test_every_algorithm_learns_and_leaves_buffers_sound(workers: Start) -> None:
    parts = [separable(40 + 5 * i, 4, 2, seed=i) for i in range(1, 8)]
    started = workers({f"worker_{i}": {"train": part, "evaluate": part} for i, part in enumerate(parts, start=1)})
    norm = {"is_input": True, "l_type": "BatchNorm1d", "structure": {"num_features": 4}, "activation": None}
    model = [norm, *linear(4, 1, "sigmoid")]
    run = {"rounds": 4, "epochs": 1, "batch_size": 8, "lr": 0.3, "lr_scheduler": "LambdaLR", "lr_decay": 0}
    own: dict[str, Values] = {
        "FedAdagrad": {"eta": 0.5},
        "FedAdam": {"eta": 0.3},
        "FedYogi": {"eta": 0.3},
        "FedAvgM": {"server_momentum": 0.5},
    }
    for name in algorithms.ALGORITHMS:
        outcome = federate(started, model, {**run, "algorithm": name, **own.get(name, {})})
        losses = list(outcome.history.evaluate.values())
        assert len(losses) == 4, name
        assert losses[-1] < min(0.6, 0.97 * losses[0]), (name, losses)
        counter = outcome.weights["nnl_0_batchnorm1d.num_batches_tracked"].numpy()
        assert counter.dtype == np.int64 and 4 * 5 <= counter <= 4 * 10, name
        assert (outcome.weights["nnl_0_batchnorm1d.running_var"].numpy() > 0).all(), name
        assert all(array.numpy().dtype == np.float32 for key, array in outcome.weights.items() if "num" not in key), (
            name
        )


def test_momentum_of_the_server_by_hand() -> None:
    values = {"algorithm": "FedAvgM", "server_momentum": 0.5, "server_learning_rate": 2.0}
    server = Server(values, 2, record(w=f32(1, 2), mean=f32(0), n=0), "mean", "n")
    # Means by rows: (3 * 2 + 1 * 6) / 4 = 3 and (3 * 2 + 1 * -2) / 4 = 1; steps +2 and -1; twice the velocity.
    first = server.take(reply(1, 3, w=f32(2, 2), mean=f32(4), n=3), reply(2, 1, w=f32(6, -2), mean=f32(8), n=9))
    np.testing.assert_allclose(first["w"], [1 + 2 * 2, 2 - 2 * 1])
    np.testing.assert_allclose(first["mean"], [5])  # a buffer: averaged
    assert first["n"] == 4 and first["n"].dtype == np.int64  # (9 + 9) / 4 = 4.5, rounded to even
    # Steps +1 and +1; velocities 0.5 * 2 + 1 and 0.5 * -1 + 1.
    same = {"w": first["w"] + f32(1, 1), "mean": f32(0), "n": 1}
    second = server.take(reply(1, 3, **same), reply(2, 1, **same))
    np.testing.assert_allclose(second["w"], first["w"] + 2 * f32(2, 0.5))


def test_adam_of_the_server_by_hand() -> None:
    values = {"algorithm": "FedAdam", "eta": 0.3, "tau": 0.01, "beta_1": 0.8, "beta_2": 0.9}
    server = Server(values, 2, record(w=f32(1, 2, 3)))
    w, m, v = np.asarray([1.0, 2.0, 3.0]), np.zeros(3), np.zeros(3)
    for server_round, steps in enumerate(([0.5, -1, 0], [0.25, 1, 0.125], [-1, 0, 1]), start=1):
        delta = np.asarray(steps)
        near, far = w + delta - 0.5, w + delta + 0.5
        got = server.take(reply(1, 10, w=near.astype(np.float32)), reply(2, 10, w=far.astype(np.float32)))["w"]
        m = 0.8 * m + 0.2 * delta
        v = 0.9 * v + 0.1 * delta**2
        eta = 0.3 * np.sqrt(1 - 0.9 ** (server_round + 1)) / (1 - 0.8 ** (server_round + 1))
        w = w + eta * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(got, w, rtol=1e-5)
        w = got.astype(np.float64)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
def test_a_restored_algorithm_goes_on_with_the_same_bits(name: str) -> None:
    def step(server: Server) -> bytes:
        moved = [server.weights["w"].numpy() * factor for factor in (0.9, 1.2)]
        return bytes(server.take(reply(1, 2, w=moved[0]), reply(2, 5, w=moved[1]))["w"].tobytes())

    undisturbed, killed = (Server({"algorithm": name}, 2, record(w=f32(1, -2, 3))) for _ in range(2))
    for server in (undisturbed, killed):
        step(server), step(server)
    restored = Server({"algorithm": name}, 2, killed.weights)
    restored.aggregation.restore(killed.aggregation.state)
    restored.round = 2
    assert [step(restored), step(restored)] == [step(undisturbed), step(undisturbed)]


@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"])
def test_robust_algorithms_withstand_a_liar(name: str) -> None:
    server = Server({"algorithm": name}, 7, record(w=f32(0, 0), n=0), "n")
    honest = [reply(i, 10, w=f32(1 + 0.01 * i, -1), n=i) for i in range(1, 7)]
    result = server.take(*honest, reply(7, 10, w=f32(1e6, 1e6), n=2**40))
    np.testing.assert_allclose(result["w"], [1, -1], atol=0.1)
    assert 1 <= result["n"] <= 6


def test_fairness_lets_a_large_loss_weigh_more() -> None:
    moves = {}
    for q in (0.0, 2.0):
        server = Server({"algorithm": "QFedAvg", "q": q, "lr": 1.0}, 2, record(w=f32(0)))
        moves[q] = float(server.take(reply(1, 10, loss=0.1, w=f32(-0.1)), reply(2, 10, loss=2.0, w=f32(0.1)))["w"][0])
    assert moves[0.0] == pytest.approx(0, abs=1e-6)
    assert moves[2.0] > 0.01
    server = Server({"algorithm": "QFedAvg"}, 2, record(w=f32(0)))
    with pytest.raises(GridFailure, match=r"one is -0.5: take a criterion that is never negative"):
        server.take(reply(1, 10, loss=-0.5, w=f32(1)), reply(2, 10, w=f32(1)))


def test_privacy_clips_counts_everybody_alike_and_adds_the_noise_it_says() -> None:
    values = {"algorithm": "FedAvg", "clipping_norm": 5.0, "noise_multiplier": 0.0}
    server = Server(values, 2, record(w=f32(1, 1)))
    # An update of length 50 is cut to 5, one of length 1 stays; 900 rows count no more than 1.
    result = server.take(reply(1, 900, w=f32(31, 41)), reply(2, 1, w=f32(1, 2)))
    np.testing.assert_allclose(result["w"], [1 + (3 + 0) / 2, 1 + (4 + 1) / 2], rtol=1e-6)

    noisy = Server({**values, "noise_multiplier": 2.0}, 4, record(w=np.zeros(40_000, np.float32)))
    shifted = np.full(40_000, 1e-3, np.float32)
    # One of four is absent: the mean is over three, and so is the noise.
    deviation = noisy.take(*(reply(i, 10, w=shifted) for i in (1, 2, 3)))["w"].std()
    assert deviation == pytest.approx(2.0 * 5.0 / 3, rel=0.05)
    with pytest.raises(GridFailure, match="An update is zero"):
        server.take(reply(1, 1, w=server.weights["w"].numpy()), reply(2, 1, w=f32(0, 0)))
    with pytest.raises(Invalid, match="clipping_norm does not go together with mean"):
        Server(values, 2, record(w=f32(1), mean=f32(1)), "mean")


def test_adaptive_clipping_of_flower_still_goes_the_wrong_way() -> None:
    """If this fails, Flower has mended it: the norm should grow while every update is longer. Then offer it."""
    inner = flower.FedAvg(fraction_train=0.0)
    wrapper = flower.DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, 2, initial_clipping_norm=0.1)
    wrapper.configure_train(1, record(w=f32(0, 0)), ConfigRecord(), None)  # type: ignore[arg-type]
    wrapper.aggregate_train(1, [reply(1, 1, w=f32(100, 0)), reply(2, 1, w=f32(0, 100))])
    assert wrapper.clipping_norm < 0.1


@pytest.mark.parametrize(
    ("values", "participants", "said"),
    [
        (
            {"algorithm": "Krum"},
            4,
            "Krum .* needs at least 5 participants in every round, and here are 4",
        ),
        ({"algorithm": "Bulyan", "num_malicious_nodes": 2}, 10, "needs at least 11 participants"),
        ({"algorithm": "MultiKrum", "num_nodes_to_select": 9}, 9, "needs at least 10 participants"),
        ({"algorithm": "FedMedian"}, 2, "needs at least 3 participants"),
        ({"algorithm": "FedTrimmedAvg", "cut_fraction": 0.3}, 3, "needs at least 4 participants"),
        ({"algorithm": "FedTrimmedAvg", "cut_fraction": 0.5}, 9, "cut_fraction = 0.5: Input should be less than 0.5"),
        ({"algorithm": "FedAdam", "beta_2": 1}, 2, "beta_2 = 1: Input should be less than 1"),
        ({"algorithm": "FedAvg", "eta": 0.1}, 2, "eta has no effect with algorithm FedAvg: it belongs to FedAdagrad"),
        ({"algorithm": "FedAdam", "clipping_norm": 1}, 2, "clipping_norm has no effect with algorithm FedAdam"),
        ({"algorithm": "FedProx", "clipping_norm": 1}, 2, "clipping_norm and noise_multiplier go together"),
        ({"algorithm": "FedXgbBagging"}, 2, "trees of XGBoost"),
        ({"algorithm": "SecAggPlus"}, 2, "legacy server"),
        ({"algorithm": "DifferentialPrivacyServerSideAdaptiveClipping"}, 2, "the wrong way"),
    ],
)
def test_wrong_settings_say_what_would_be_right(values: Values, participants: int, said: str) -> None:
    with pytest.raises(Invalid, match=said) as failure:
        parameters = Parameters.read(values)
        algorithms.read(parameters.algorithm, parameters.model_extra or {}, participants)
    assert failure.value.status == 417


def test_no_strategy_of_flower_is_forgotten() -> None:
    known = algorithms.ALGORITHMS.keys() | algorithms.REFUSED.keys()
    assert set(flower.__all__) - known == {"Result", "Strategy"}
