"""The records of phase 1 as a client of 2021 knows them: paths, codes, envelope, shapes, cascades."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from grid_double import COLLAB, EXPERIMENT, MODEL, PROJECT, RUN, Grid, PlainClient, register, registration

KEY = {"collab_id": "c1", "project_id": "p1", "expt_id": "e1", "run_id": "r1"}
MEMBER = {"collab_id": "c1", "project_id": "p1", "participant_id": "worker_1"}
NODE = {"host": "172.18.0.3", "port": 8020, "f_port": 5000, "log_msgs": True, "verbose": True}
REGISTRATION = registration("worker_1")


def key(*names: str) -> dict[str, str]:
    return {name: {**KEY, **MEMBER}[name] for name in names}


# path below /ttp, method, params, ids in the record's key, relations, fields
RECORDS = [
    (
        COLLAB,
        "collaboration",
        key("collab_id"),
        ["Project", "Experiment", "Run", "Registration", "Tag", "Model", "Validation", "Prediction"],
        {},
    ),
    (
        PROJECT,
        "project",
        key("collab_id", "project_id"),
        ["Experiment", "Run", "Registration", "Tag", "Model", "Validation", "Prediction"],
        {"action": "regress", "incentives": {"tier_1": []}},
    ),
    (
        EXPERIMENT,
        "experiment",
        key("collab_id", "project_id", "expt_id"),
        ["Run", "Model", "Validation", "Prediction"],
        # A null activation is not shown.
        {
            "model": [{"is_input": True, "l_type": "Linear", "structure": {"in_features": 28, "out_features": 1}}],
        },
    ),
    (RUN, "run", KEY, ["Model", "Validation", "Prediction"], {"rounds": 2, "criterion": "MSELoss"}),
    (
        "connect/participants/worker_1",
        "participant",
        key("participant_id"),
        ["Registration", "Tag"],
        {"id": "worker_1"},
    ),
    (
        REGISTRATION,
        "registration",
        MEMBER,
        ["Tag"],
        {
            "role": "host",
            "n_count": 1,
            "node_0": NODE,
            "collaboration": {"catalogue": {}, "logs": {}, "meter": {}, "mlops": {}, "mq": {}},
            "project": {"action": "regress", "incentives": {"tier_1": []}, "start_at": None},
            "participant": {
                "id": "worker_1",
                "category": [],
                "summary": None,
                "phone": None,
                "email": None,
                "socials": None,
            },
        },
    ),
    (
        f"{REGISTRATION}/tags",
        "tag",
        MEMBER,
        None,
        {
            "train": [["abalone", "dataset", "data1", "train"]],
            "evaluate": [["abalone", "dataset", "data1", "evaluate"]],
            "predict": [],
        },
    ),
]


@pytest.mark.parametrize(("path", "resource", "ids", "relations", "fields"), RECORDS, ids=[row[1] for row in RECORDS])
def test_one_record(
    client: PlainClient, path: str, resource: str, ids: dict[str, str], relations: list[str] | None, fields: dict
) -> None:
    register(client)
    for verb in ("GET", "DELETE"):
        response = client(verb, path)
        answer = response.json()
        assert response.status_code == 200
        assert (answer["method"], answer["params"]) == (f"{resource}.{verb.lower()}", ids)
        data = answer["data"]
        assert data.pop("doc_id").isdigit()
        assert (data.pop("kind"), data.pop("key")) == (resource.capitalize(), ids)
        data.pop("created_at")
        shown = data.pop("relations", None)
        assert (list(shown) if shown is not None else None) == relations
        assert data == fields
    assert client("GET", path).status_code == 404
    assert client("DELETE", path).status_code == 404


def test_collections(client: PlainClient) -> None:
    register(client)
    for path, method, params, count in (
        ("connect/collaborations", "collaborations", {}, 1),
        (f"{COLLAB}/projects", "projects", key("collab_id"), 1),
        (f"{PROJECT}/experiments", "experiments", key("collab_id", "project_id"), 1),
        (f"{EXPERIMENT}/runs", "runs", key("collab_id", "project_id", "expt_id"), 1),
        ("connect/participants", "participants", {}, 2),
        (f"{COLLAB}/registrations", "registrations", {}, 2),
        (f"{PROJECT}/registrations", "registrations", {}, 2),
        (f"{COLLAB}/participants/worker_1/registrations", "registrations", {}, 1),
        ("connect/participants/worker_1/registrations", "registrations", {}, 1),
        # Broken in the original; its Driver uses it.
        ("connect/participants/worker_1/collaborations/c1/registrations", "registrations", {}, 1),
        ("connect/collaborations/nowhere/projects", "projects", {"collab_id": "nowhere"}, 0),
        ("connect/participants/nobody/registrations", "registrations", {}, 0),
    ):
        for slash in ("", "/"):
            response = client("GET", path + slash)
            answer = response.json()
            assert (response.status_code, answer["method"], answer["params"]) == (200, f"{method}.get", params)
            assert len(answer["data"]) == count, path


def test_created_records_are_returned(client: PlainClient) -> None:
    register(client)
    for path, body, method, params in (
        ("connect/collaborations", {"collab_id": "c2"}, "collaborations.post", {}),
        (f"{COLLAB}/projects", {"project_id": "p2", "incentives": {}}, "projects.post", key("collab_id")),
        (
            f"{EXPERIMENT}/runs",
            {"run_id": "r2", "lr": 1, "momentum": 0.5},
            "runs.post",
            key("collab_id", "project_id", "expt_id"),
        ),
        ("connect/participants/", {"id": "worker_3", "category": None}, "participants.post", {}),
        (REGISTRATION, {"role": "guest", "n_count": 1, "node_0": NODE}, "registration.post", MEMBER),
        (f"{REGISTRATION}/tags/", {"train": [["d"]], "evaluate": []}, "tag.post", MEMBER),
    ):
        response = client("POST", path, body)
        answer = response.json()
        assert (response.status_code, answer["method"], answer["params"]) == (201, method, params), answer
        assert answer["data"]["doc_id"].isdigit()
    assert client.ok("GET", f"{EXPERIMENT}/runs/r2")["momentum"] == 0.5
    # Empty objects are not shown.
    assert "incentives" not in client.ok("GET", f"{COLLAB}/projects/p2")


def test_a_new_experiment_is_returned_as_stored(client: PlainClient) -> None:
    register(client)
    layers = [
        {"is_input": True, "l_type": "Conv2d", "structure": {"kernel_size": [3, 5], "odd": {}}, "activation": None},
        {"is_input": False, "l_type": "Flatten", "structure": {}, "activation": ""},
    ]
    created = client.ok("POST", f"{PROJECT}/experiments", {"expt_id": "e2", "model": layers})
    assert isinstance(created["doc_id"], int)
    assert created["model"] == layers
    assert created["created_at"].endswith(" N")
    read = client.ok("GET", f"{PROJECT}/experiments/e2")
    assert read["doc_id"] == str(created["doc_id"])
    assert read["model"][0]["structure"]["kernel_size"] == [3, 5]
    assert read["model"][1] == {"is_input": False, "l_type": "Flatten", "activation": ""}
    # What was read can be sent back.
    client.ok("PUT", f"{PROJECT}/experiments/e2", read)
    assert client.ok("GET", f"{PROJECT}/experiments/e2")["model"] == read["model"]


def test_every_record_can_be_sent_back_as_it_was_read(client: PlainClient) -> None:
    register(client)
    for path, *_ in RECORDS:
        before = client.ok("GET", path)
        assert client.ok("PUT", path, before) == before


def test_posting_again_merges(client: PlainClient) -> None:
    register(client)
    first = client.ok("GET", RUN)
    again = client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r1", "rounds": 7})
    assert again["doc_id"] == first["doc_id"]
    assert (again["rounds"], again["criterion"]) == (7, "MSELoss")
    assert len(client.ok("GET", f"{EXPERIMENT}/runs")) == 1


def test_put_changes_what_is_sent_and_never_the_key(client: PlainClient) -> None:
    register(client)
    changed = client.ok("PUT", RUN, {"epochs": 3, "batch_size": None, "run_id": "other", "key": {"run_id": "other"}})
    assert (changed["key"], changed["epochs"], changed["rounds"]) == (KEY, 3, 2)
    components = {"host": "172.19.0.11", "ports": {"main": 5500, "ui": 5500}, "secure": False}
    client.ok("PUT", COLLAB, {"mlops": components, "note": "kept, but not shown"})
    assert client.ok("GET", COLLAB)["mlops"] == components
    assert "note" not in client.ok("GET", COLLAB)
    assert client.ok("GET", REGISTRATION)["collaboration"]["mlops"] == components
    client.ok("PUT", COLLAB, {"mlops": {}})
    assert "mlops" not in client.ok("GET", COLLAB)


def test_registering_again_keeps_the_tags_and_drops_old_nodes(client: PlainClient) -> None:
    register(client)
    client.ok("POST", REGISTRATION, {"role": "host", "n_count": 2, "node_0": NODE, "node_1": NODE})
    again = client.ok("POST", REGISTRATION, {"role": "guest", "n_count": 1, "node_0": NODE})
    assert len(again["relations"]["Tag"]) == 1
    assert "node_1" not in again
    grown = client.ok("PUT", REGISTRATION, {"n_count": 2, "node_1": {**NODE, "port": 8021}})
    assert grown["node_1"]["port"] == 8021
    assert "node_1" not in client.ok("PUT", REGISTRATION, {"n_count": 1})


def test_both_paths_of_a_registration_are_one_record(client: PlainClient) -> None:
    register(client)
    membership = "connect/participants/worker_1/collaborations/c1/projects/p1/registration"
    assert client.ok("GET", membership) == client.ok("GET", REGISTRATION)
    client.ok("PUT", f"{membership}/tags", {"predict": [["x"]]})
    assert client.ok("GET", f"{REGISTRATION}/tags")["predict"] == [["x"]]
    client.ok("DELETE", membership)
    assert client("GET", REGISTRATION).status_code == 404


def test_deleting_matches_the_whole_key(client: PlainClient, grid: Grid) -> None:
    for collab, project in (("a", "p1"), ("b", "p1"), ("b", "p2")):
        register(client, collab, project)
        client.ok("POST", f"train/collaborations/{collab}/projects/{project}/alignments", {})
        client.ok("POST", f"train/collaborations/{collab}/projects/{project}/models", {})
        client.ok("POST", f"evaluate/collaborations/{collab}/projects/{project}/validations", {})
    before = grid.snapshot()
    relations = client.ok("GET", "connect/collaborations/b/projects/p1")["relations"]
    for found in relations.values():
        assert {(record["key"]["collab_id"], record["key"]["project_id"]) for record in found} <= {("b", "p1")}
    assert {name: len(found) for name, found in relations.items()} == {
        "Experiment": 1,
        "Run": 1,
        "Registration": 2,
        "Tag": 2,
        "Model": 1,
        "Validation": 2,
        "Prediction": 0,
    }
    client.ok("DELETE", "connect/collaborations/b/projects/p1")
    after = grid.snapshot()
    for kind, found in before.items():
        gone = [record.key for record in found if record not in after[kind]]
        inside = [
            record.key for record in found if (record.key.get("collab_id"), record.key.get("project_id")) == ("b", "p1")
        ]
        assert gone == inside, kind
    client.ok("DELETE", "connect/collaborations/b")
    assert client.ok("GET", "connect/collaborations/b/projects") == []
    assert len(client.ok("GET", "connect/collaborations/a")["relations"]["Validation"]) == 2


def test_what_goes_with_a_participant_and_with_tags(client: PlainClient, grid: Grid) -> None:
    register(client)
    for path in ("train/{}/alignments", "train/{}/models", "evaluate/{}/validations"):
        client.ok("POST", path.format("collaborations/c1/projects/p1"), {})
    client.ok("DELETE", f"{REGISTRATION}/tags")
    assert [record.key["participant_id"] for record in grid.snapshot()["Alignment"]] == ["worker_2"]
    client.ok("DELETE", "connect/participants/worker_2")
    left = {kind: len(found) for kind, found in grid.snapshot().items()}
    assert left["Registration"] == 1
    assert left["Alignment"] == 0
    assert left["Validation"] == 1
    # A model outlives those who trained it.
    assert left["Model"] == 1


def test_new_training_data_needs_a_new_alignment(client: PlainClient, grid: Grid) -> None:
    register(client)
    client.ok("POST", "train/collaborations/c1/projects/p1/alignments", {})
    tags = client.ok("GET", f"{REGISTRATION}/tags")
    client.ok("POST", f"{REGISTRATION}/tags", {"train": tags["train"], "predict": [["new"]]})
    assert len(grid.snapshot()["Alignment"]) == 2
    client.ok("PUT", f"{REGISTRATION}/tags", {"train": [["other"]]})
    assert [record.key["participant_id"] for record in grid.snapshot()["Alignment"]] == ["worker_2"]
    refused = client("POST", "train/collaborations/c1/projects/p1/models", {})
    assert refused.status_code == 417
    assert "worker_1" in refused.json()["message"]


def test_two_clients_at_once(client: PlainClient, grid: Grid) -> None:
    register(client)
    clients = [PlainClient(grid.url), PlainClient(grid.url)]

    def create(number: int) -> str:
        body = {"run_id": f"n{number}", "seed": number}
        data = clients[number % 2].ok("POST", f"{EXPERIMENT}/runs", body)
        assert data["seed"] == number
        return str(data["doc_id"])

    def merge(number: int) -> str:
        return str(
            clients[number % 2].ok("POST", f"{EXPERIMENT}/runs", {"run_id": "one", f"k{number}": number})["doc_id"]
        )

    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(create, range(60)))
        merged = set(pool.map(merge, range(60)))
    assert len(set(created)) == 60
    assert len(merged) == 1
    assert {f"k{number}" for number in range(60)} <= client.ok("GET", f"{EXPERIMENT}/runs/one").keys()


def test_experiments_accept_an_empty_model(client: PlainClient) -> None:
    register(client)
    assert client.ok("POST", f"{PROJECT}/experiments", {"expt_id": "e3", "model": []})["model"] == []
    assert client.ok("POST", f"{PROJECT}/experiments", {"expt_id": "e3", "model": MODEL})["model"] == MODEL
