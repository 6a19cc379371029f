"""Malformed requests: each gets its status and a message that helps, and leaves everything as it was."""

from __future__ import annotations

from typing import Any

import pytest
from grid_double import COLLAB, EXPERIMENT, MODEL, PROJECT, RUN, Grid, PlainClient, register, registration

JSON = {"content-type": "application/json"}
NODE = {"host": "172.18.0.3", "port": 8020, "f_port": 5000}
REGISTRATION = registration("worker_1")
TRAIN = "train/collaborations/c1/projects/p1"
EVALUATE = "evaluate/collaborations/c1/projects/p1"
PREDICT = "evaluate/participants/worker_1/collaborations/c1/predictions"
ELSEWHERE = "train/collaborations/c1/projects/nix"


def layer(**changes: Any) -> dict[str, Any]:
    return {"expt_id": "e9", "model": [{**MODEL[0], **changes}]}


def member(**changes: Any) -> dict[str, Any]:
    return {"role": "host", "n_count": 1, "node_0": NODE, **changes}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# verb, path below /ttp, body, status, what the message must say
TABLE: list[tuple[str, str, Any, int, str]] = [
    # No such record.
    ("GET", "connect/collaborations/nix", None, 404, "Collaboration (collaboration 'nix') does not exist"),
    ("PUT", "connect/collaborations/nix", {}, 404, "does not exist"),
    ("DELETE", "connect/collaborations/nix", None, 404, "does not exist"),
    ("GET", registration("nobody"), None, 404, "participant 'nobody'"),
    ("PUT", f"{PROJECT}/experiments/nix/runs/r1", {"rounds": 1}, 404, "experiment 'nix'"),
    ("DELETE", f"{registration('nobody')}/tags", None, 404, "Tag"),
    # No parent.
    ("POST", "connect/collaborations/nix/projects", {"project_id": "p", "incentives": {}}, 404, "before its projects"),
    ("POST", f"{COLLAB}/projects/nix/experiments", {"expt_id": "e", "model": []}, 404, "Project"),
    ("POST", f"{PROJECT}/experiments/nix/runs", {"run_id": "r"}, 404, "Experiment"),
    ("POST", registration("nobody"), member(), 404, "Participant (participant 'nobody') does not exist"),
    ("POST", registration("worker_1", "c1", "nix"), member(), 404, "Project"),
    ("POST", f"{registration('worker_3')}/tags", {"train": [["a"]]}, 404, "Registration"),
    # Ids.
    ("POST", "connect/collaborations", {}, 417, "collab_id: required"),
    ("POST", "connect/collaborations", {"collab_id": 7}, 417, "collab_id: input should be a valid string, got 7"),
    ("POST", "connect/collaborations", {"collab_id": "../up"}, 417, "collab_id '../up' is not usable"),
    ("POST", "connect/participants", {"participant_id": "w"}, 417, "id: required"),
    ("POST", "connect/participants", {"id": ".."}, 417, "not usable"),
    ("POST", f"{EXPERIMENT}/runs", {"run_id": "optimizations"}, 417, "is taken"),
    ("POST", f"{EXPERIMENT}/runs", {"run_id": "x" * 129}, 417, "1 to 128 letters"),
    # Collaborations.
    ("POST", "connect/collaborations", {"collab_id": "c2", "mq": []}, 417, "mq: input should be an object, got []"),
    ("PUT", COLLAB, {"mq": {"host": "mq", "ports": {"ui": 15672}}}, 417, "mq.ports.main: required"),
    ("PUT", COLLAB, {"logs": {"ports": {"main": 9000}}}, 417, "logs.ports.sysmetrics: required"),
    ("PUT", COLLAB, {"mlops": {"ports": {"main": 70000}}}, 417, "less than or equal to 65535, got 70000"),
    ("PUT", COLLAB, {"mlops": {"hots": "x"}}, 417, "mlops.hots: unknown field"),
    # Projects.
    ("POST", f"{COLLAB}/projects", {"project_id": "p9"}, 417, "incentives: required"),
    ("PUT", PROJECT, {"action": "cluster"}, 417, "action: input should be 'regress' or 'classify', got 'cluster'"),
    ("PUT", PROJECT, {"incentives": None}, 417, "incentives"),
    ("PUT", PROJECT, {"universe_alignment": "a"}, 417, "universe_alignment: input should be a valid list"),
    ("PUT", PROJECT, {"acton": "regress"}, 417, "acton: unknown field"),
    ("PUT", PROJECT, {"incentives": {"a": nested(40)}}, 417, "32 levels"),
    # Experiments.
    ("POST", f"{PROJECT}/experiments", {"expt_id": "e9"}, 417, "model: required"),
    ("POST", f"{PROJECT}/experiments", {"expt_id": "e9", "model": {}}, 417, "model: input should be a valid list"),
    ("POST", f"{PROJECT}/experiments", {"expt_id": "e9", "model": [{}]}, 417, "model[0].l_type: required"),
    ("POST", f"{PROJECT}/experiments", layer(structure={"in_features": "8"}), 417, "model[0].structure.in_features"),
    ("POST", f"{PROJECT}/experiments", layer(structure={"kernel_size": [3, "x"]}), 417, "kernel_size"),
    ("POST", f"{PROJECT}/experiments", layer(activation=1), 417, "model[0].activation"),
    ("PUT", EXPERIMENT, {"model": [{"l_type": "Linear"}]}, 417, "model[0].is_input: required"),
    # Runs.
    ("POST", f"{EXPERIMENT}/runs", {"rounds": 1}, 417, "run_id: required"),
    ("POST", f"{EXPERIMENT}/runs", {"run_id": "r9", "rounds": "two"}, 417, "rounds: input should be a valid integer"),
    ("PUT", RUN, {"rounds": 0}, 417, "rounds: input should be greater than or equal to 1, got 0"),
    ("PUT", RUN, {"epochs": True}, 417, "epochs: input should be a valid integer, got True"),
    ("PUT", RUN, {"lr": "fast"}, 417, "lr: input should be a valid number, got 'fast'"),
    ("PUT", RUN, {"class_weights": [1, True]}, 417, "class_weights: give 'balanced', or a list with a number above 0"),
    ("PUT", RUN, {"class_weights": "even"}, 417, "class_weights: give 'balanced'"),
    ("PUT", RUN, {"class_weights": []}, 417, "class_weights: give 'balanced'"),
    ("PUT", RUN, {"class_weights": [0.5, 0]}, 417, "class_weights: give 'balanced'"),
    ("PUT", RUN, {"min_participants": 0}, 417, "min_participants: input should be greater than or equal to 1"),
    ("PUT", RUN, {"min_participants": True}, 417, "min_participants: input should be a valid integer"),
    ("PUT", RUN, {"grace": True}, 417, "grace: input should be a valid number, got True"),
    ("PUT", RUN, {"grace": -1}, 417, "grace: input should be greater than or equal to 0"),
    ("PUT", RUN, {"checkpoints": "all"}, 417, "checkpoints: input should be a valid integer"),
    ("PUT", RUN, {"checkpoints": True}, 417, "checkpoints: input should be a valid integer"),
    ("PUT", RUN, {"mode": "square"}, 417, "'triangular', 'triangular2' or 'exp_range'"),
    ("PUT", RUN, {"optimizer": ["SGD"]}, 417, "optimizer: input should be a valid string"),
    # Participants.
    ("PUT", "connect/participants/worker_1", {"category": "bank"}, 417, "category: input should be a valid list"),
    ("PUT", "connect/participants/worker_1", {"fax": "1"}, 417, "fax: unknown field"),
    # Registrations.
    ("POST", REGISTRATION, {"n_count": 1, "node_0": NODE}, 417, "role: required"),
    ("POST", REGISTRATION, member(role="boss"), 417, "'host', 'guest' or 'arbiter', got 'boss'"),
    ("POST", REGISTRATION, member(n_count=2), 417, "n_count is 2, but node_1 is missing"),
    ("POST", REGISTRATION, member(node_1=NODE), 417, "node_1 is given, but n_count is 1"),
    ("POST", REGISTRATION, member(node_0={"host": "h", "port": 8020}), 417, "node_0.f_port: required"),
    ("POST", REGISTRATION, member(node_0={**NODE, "port": "8020"}), 417, "node_0.port"),
    ("POST", REGISTRATION, member(name="x"), 417, "unknown field 'name'"),
    ("PUT", REGISTRATION, {"n_count": 3}, 417, "node_1 is missing"),
    ("PUT", REGISTRATION, {"n_count": 10**9}, 417, "less than or equal to 1000"),
    # Tags.
    ("POST", f"{REGISTRATION}/tags", {"evaluate": [["a"]]}, 417, "train: required"),
    ("PUT", f"{REGISTRATION}/tags", {"train": ["a/b"]}, 417, "train[0]: input should be a valid list, got 'a/b'"),
    ("PUT", f"{REGISTRATION}/tags", {"train": [["a", ".."]]}, 417, "train[0][1]: '..' is not the name"),
    ("PUT", f"{REGISTRATION}/tags", {"predict": [["a/b"]]}, 417, "predict[0][0]: 'a/b' is not the name"),
    ("PUT", f"{REGISTRATION}/tags", {"predict": [[]]}, 417, "predict[0]"),
    # Jobs.
    ("POST", f"{TRAIN}/alignments", {"auto_fix": "yes"}, 417, "auto_fix: input should be a valid boolean"),
    ("POST", f"{TRAIN}/alignments", {"verbose": True}, 417, "verbose: unknown field"),
    ("POST", f"{ELSEWHERE}/alignments", {}, 404, "project 'nix'"),
    ("GET", f"{TRAIN}/alignments", None, 404, "MFA has not been performed"),
    ("POST", f"{TRAIN}/models", {}, 417, "not aligned for worker_1, worker_2: POST its alignments first"),
    ("POST", f"{TRAIN}/models", {"epochs": 3}, 417, "epochs: unknown field"),
    ("POST", f"{TRAIN}/models/nix", {}, 404, "experiment 'nix'"),
    ("POST", f"{TRAIN}/models/e1/nix", {}, 404, "run 'nix'"),
    ("GET", f"{TRAIN}/models", None, 404, "Models does not exist"),
    ("GET", f"{TRAIN}/models/e1/optimizations", None, 403, "only active in a Synergos cluster"),
    ("POST", f"{TRAIN}/models/e1/optimizations/", {"x": 1}, 403, "only active in a Synergos cluster"),
    ("POST", f"{EVALUATE}/validations", {}, 404, "No model has been trained for e1/r1"),
    ("POST", f"{EVALUATE}/validations/e1/nix", {}, 404, "run 'nix'"),
    ("GET", f"{EVALUATE}/validations", None, 404, "do not exist"),
    ("POST", f"{PREDICT}/p1", {}, 417, "tags: required"),
    ("POST", f"{PREDICT}/p1", {"tags": {}}, 417, "tags"),
    ("POST", f"{PREDICT}/p1", {"tags": {"p2": [["a"]]}}, 417, "give the data of project 'p1'"),
    ("POST", f"{PREDICT}/p1", {"tags": {"p1": "a"}}, 417, "tags.p1: input should be a valid list"),
    ("POST", f"{PREDICT}/p1", {"tags": {"p1": [["a"]]}}, 404, "No model has been trained"),
    ("POST", PREDICT.replace("worker_1", "nobody"), {"tags": {"p1": [["a"]]}}, 404, "participant 'nobody'"),
    ("GET", f"{PREDICT}/p1", None, 404, "do not exist"),
    # Nothing there.
    ("GET", "connect/nonsense", None, 404, "Nothing is served at /ttp/connect/nonsense"),
    ("PATCH", COLLAB, {}, 405, "it takes GET, PUT, DELETE"),
    ("DELETE", "connect/collaborations", None, 405, "it takes GET, POST"),
    ("POST", "connect/participants/worker_1/collaborations/c1/registrations", {}, 405, "it takes GET"),
]


def test_table(client: PlainClient, grid: Grid) -> None:
    register(client)
    before = grid.snapshot()
    for verb, path, body, status, fragment in TABLE:
        response = client(verb, path, body)
        _expect(response, status, fragment, f"{verb} {path} {body}")
    assert grid.snapshot() == before
    assert grid.engine.jobs == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "fragment"),
    [
        (b"{", JSON, 400, "The body is not JSON"),
        (b'{"collab_id": "c2",}', JSON, 400, "character"),
        (b"\xff\xfe", JSON, 400, "body"),
        (b"[" * 100_000, JSON, 400, "body"),
        (b"", JSON, 417, "a JSON object is needed"),
        (b"", {}, 417, "a JSON object is needed"),
        (b'{"collab_id": "c2"}', {}, 417, "Content-Type: application/json"),
        (b"collab_id=c2", {"content-type": "application/x-www-form-urlencoded"}, 417, "Content-Type: application/json"),
        (b"[1]", JSON, 417, "a JSON object is needed"),
        (b"null", JSON, 417, "a JSON object is needed"),
        (b'"c2"', JSON, 417, "a JSON object is needed"),
        (b'{"collab_id": "c2", "x": NaN}', JSON, 417, "finite number"),
        (b'{"collab_id": "c2", "x": 1e999}', JSON, 417, "finite number"),
        (b'{"collab_id": "c2", "x": "\\ud800"}', JSON, 417, "not valid Unicode"),
        (b'{"collab_id": "c2", "\\ud800": 1}', JSON, 417, "not valid Unicode"),
        (b'{"collab_id": "\\ud800"}', JSON, 417, "not valid Unicode"),
    ],
)
def test_bodies(
    client: PlainClient, grid: Grid, content: bytes, headers: dict[str, str], status: int, fragment: str
) -> None:
    request = {"method": "POST", "url": "/ttp/connect/collaborations", "content": content, "headers": headers}
    _expect(client.raw(**request), status, fragment, repr(content[:50]))
    assert grid.snapshot()["Collaboration"] == []


@pytest.mark.parametrize("path", [f"{TRAIN}/alignments", f"{TRAIN}/models", f"{PREDICT}/p1"])
def test_odd_field_names(client: PlainClient, path: str) -> None:
    content = b'{"\\ud800": 1, "tags": {"\\ud800": [["a"]]}}'
    response = client.raw(method="POST", url=f"/ttp/{path}", content=content, headers=JSON)
    _expect(response, 417, "", path)


def test_participants_without_tags_or_action(client: PlainClient) -> None:
    register(client)
    client.ok("DELETE", f"{REGISTRATION}/tags")
    _expect(client("POST", f"{TRAIN}/alignments", {}), 417, "participant 'worker_1') has no tags: POST them first", "")
    client.ok("DELETE", "connect/participants/worker_1")
    client.ok("DELETE", "connect/participants/worker_2")
    _expect(client("POST", f"{TRAIN}/alignments", {}), 417, "has no participants: register and tag them first", "")
    client.ok("POST", f"{COLLAB}/projects", {"project_id": "p2", "incentives": {}})
    path = "train/collaborations/c1/projects/p2/alignments"
    _expect(client("POST", path, {}), 417, "has no action: PUT", "")


def _expect(response: Any, status: int, fragment: str, what: str) -> None:
    assert response.status_code == status, f"{what}: {response.text}"
    answer = response.json()
    assert answer["message"], what
    assert fragment in answer["message"], f"{what}: {answer['message']}"
    # What polling clients and the registration flow look at.
    assert (answer["success"], answer["status"], answer["data"]) == (0, status, [])
    assert "Traceback" not in response.text
    assert len(response.text) < 2000, what
