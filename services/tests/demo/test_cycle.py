"""The demo as its command is used, against the real processes of a grid."""

from __future__ import annotations

import json
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import loopback
import pytest

from synergos import Driver
from synergos.demo.__main__ import PHASES, VARIABLE, main
from synergos.demo.settings import GRID, here, parse
from synergos.demo.tracking import Tracker, Untracked
from synergos.errors import Invalid

EXAMPLES = Path(__file__).parents[3] / "examples"
# A search needs a cluster.
CYCLE = [phase for phase in PHASES if phase != "search"]
# Example, the metric that counts, and what the federated model has to reach on the even and on the uneven split.
GOALS = [
    ("diabetes", "R2", 0.55, 0.53),
    ("breast_cancer", "accuracy", 0.95, 0.95),
    ("wine", "accuracy", 0.93, 0.93),
    ("digits", "accuracy", 0.92, 0.88),
    ("webster", "accuracy", 0.85, 0.85),
]


def told(grid: loopback.Grid, example: str, **changes: Any) -> dict[str, Any]:
    """Return settings as the playbook writes them."""
    participants = [
        {
            "participant_id": name,
            "role": "guest" if index > 1 else "host",
            "host": address,
            "port": 8020,
            "f_port": 5000,
            "data": f"data{index}",
        }
        for index, (name, address) in enumerate(grid.workers.items(), 1)
    ]
    settings = {
        "host": grid.ttp,
        "port": 5000,
        "collab_id": "demo",
        "project_id": example,
        "example": str(EXAMPLES / example),
        "parameters": {},
        "participants": participants,
    }
    return settings | changes


class Demo:
    """Runs phases in this process with the settings of one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def run(self, settings: Any, *phases: str) -> dict[str, Any]:
        """Return the results of phases that have to succeed."""
        results = {}
        for phase in phases:
            code, out, err = self.outcome(settings, phase)
            assert code == 0, err
            results[phase] = json.loads(out)
            assert results[phase]["phase"] == phase and results[phase]["seconds"] >= 0
        return results

    def fail(self, settings: Any, phase: str) -> str:
        """Return the complaint of a phase that has to fail, without line breaks."""
        code, out, err = self.outcome(settings, phase)
        assert code == 1 and out == "" and "Traceback" not in err
        return " ".join(err.split())

    def outcome(self, settings: Any, phase: str) -> tuple[int, str, str]:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        self._monkeypatch.setenv(VARIABLE, text)
        self._capsys.readouterr()
        code = main([phase])
        return code, *self._capsys.readouterr()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Demo:
    return Demo(monkeypatch, capsys)


@pytest.mark.parametrize(("example", "metric", "even", "uneven"), GOALS)
def test_federation_is_as_good_as_central_training_and_better_than_being_alone(
    grid: loopback.Grid, demo: Demo, example: str, metric: str, even: float, uneven: float
) -> None:
    results = demo.run(told(grid, example), *CYCLE)
    assert results["predict"]["statistics"].keys() == set(grid.workers)
    found = results["compare"]["figures"]
    assert list(found) == ["federated", "central", "worker_1 alone", "worker_2 alone"]
    assert all(set(figures) == {*grid.workers, "overall"} for figures in found.values())
    overall = {title: figures["overall"][metric] for title, figures in found.items()}
    assert overall["federated"] >= even
    assert overall["federated"] == pytest.approx(overall["central"], rel=0.03)
    for name, own in results["validate"]["figures"].items():
        assert found["federated"][name] == own
    rows = results["compare"]["table"][1:]
    assert all(line.startswith(title) for line, title in zip(rows, found, strict=True))
    curves = results["train"]["losses"]
    assert curves["round"] == list(range(1, len(curves["round"]) + 1))
    assert curves["evaluate"][-1] is None and curves["evaluate"][-2] < curves["evaluate"][0]
    assert {f"train at {name}" for name in grid.workers} < curves.keys()

    results = demo.run(told(grid, example, project_id=f"{example}_non_iid", split="non_iid"), *CYCLE)
    overall = {title: figures["overall"][metric] for title, figures in results["compare"]["figures"].items()}
    assert overall["federated"] >= uneven
    assert overall["federated"] > max(overall["worker_1 alone"], overall["worker_2 alone"])


def test_a_run_with_one_seed_gives_one_model(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "digits", project_id="again", parameters={"rounds": 2})
    first, second = (demo.run(settings, "register", "align", "train", "validate") for _ in range(2))
    assert first["validate"]["statistics"] == second["validate"]["statistics"]


def test_an_earlier_run_leaves_nothing_behind(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "diabetes", project_id="twice", parameters={"momentum": 0.9})
    demo.run(settings, "register", "align")
    # One participant has left, and the parameter is back to what the example says.
    settings = told(grid, "diabetes", project_id="twice", parameters={"rounds": 1})
    del settings["participants"][1]
    results = demo.run(settings, "register", "align", "train", "validate")
    assert list(results["align"]["spacers"]) == ["worker_1"]
    alone = demo.run({**settings, "project_id": "once"}, "register", "align", "train", "validate")
    assert alone["validate"]["statistics"] == results["validate"]["statistics"]


LOGS = {"host": "127.0.0.77", "ports": {"main": 9000, "ui": 9000}, "secure": False}
MLOPS = {"host": "127.0.0.77", "ports": {"main": 5500, "ui": 5500}, "secure": False}
PAGES = {"ttp": "http://127.0.0.1:5000", "logs": "http://logs/search?q=", "mlops": "http://mlops"}


def test_the_collaboration_learns_its_components(grid: loopback.Grid, demo: Demo) -> None:
    logs = {
        **LOGS,
        "ports": {"main": 9000, "ui": 9000, "sysmetrics": 9100, "director": 9200, "ttp": 9300, "worker": 9400},
    }
    settings = told(grid, "diabetes", collab_id="served", logs=logs, mlops=MLOPS)
    demo.run(settings, "register")
    record = Driver(grid.ttp, 5000).collaborations.read("served")["data"]
    assert (record["logs"], record["mlops"]) == (logs, MLOPS)


def test_one_trace_id_can_join_all_phases(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "diabetes", project_id="traced")
    own = demo.run(settings, "register")["register"]["trace_id"]
    assert demo.run(settings, "align")["align"]["trace_id"] != own
    assert demo.run({**settings, "trace_id": own}, "align")["align"]["trace_id"] == own
    assert "trace_id" in demo.fail({**settings, "trace_id": "mine"}, "align")


def test_links_need_what_they_lead_to(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "diabetes", pages=dict(PAGES), logs=LOGS, trace_id="0af7651916cd43dd8448eb211c80319c")
    assert "settings name no mlops" in demo.fail(settings, "links")
    with pytest.raises(Untracked, match=r"MLflow at http://127\.0\.0\.77:5500 does not answer"):
        Tracker(parse(json.dumps({**settings, "mlops": MLOPS}))).run(timeout=0.1)
    del settings["pages"]["mlops"]
    found = demo.run(settings, "links")["links"]["links"]
    assert found == {"logs": "http://logs/search?q=trace_id%3A%220af7651916cd43dd8448eb211c80319c%22"}


def test_a_model_no_better_than_chance_fails(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "diabetes", project_id="chance", parameters={"rounds": 1, "epochs": 1, "lr": 1e-9})
    demo.run(settings, "register", "align", "train", "validate", "predict")
    code, out, err = demo.outcome(settings, "compare")
    assert code == 1 and "R2" in err and "not better than chance" in err
    # The figures are there all the same, for the table that shows how bad it is.
    assert json.loads(out)["figures"]["federated"]["overall"]["R2"] < 0


def test_failures_say_what_is_wrong(grid: loopback.Grid, demo: Demo) -> None:
    settings = told(grid, "diabetes", project_id="wrong")
    assert "run" in demo.fail({**settings, "project_id": "never"}, "train").lower()
    assert "127.0.0.77:5000" in demo.fail({**settings, "host": "127.0.0.77"}, "register")
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        assert "is no orchestrator" in demo.fail({**settings, "port": other.server_port}, "register")
    lost = json.loads(json.dumps(settings))
    lost["participants"][1]["host"] = "127.0.0.77"
    demo.run(lost, "register")
    assert "worker_2" in demo.fail(lost, "align")
    assert "lr" in demo.fail({**settings, "parameters": {"lr": "fast"}}, "register")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no settings"),
        ("{", "Invalid JSON"),
        ('{"host": "h", "project_id": "p", "example": "/nowhere", "participants": []}', "participants"),
        ('{"host": "h", "project_id": "p", "example": "/nowhere", "participant": 1}', "participant: Extra"),
        ('{"host": "h", "project_id": "p", "example": "/nowhere", "participants": [], "split": "iit"}', "split"),
    ],
)
def test_unusable_settings_are_explained(demo: Demo, text: str, said: str) -> None:
    assert said in demo.fail(text, "register")


def test_a_missing_example_is_named(demo: Demo) -> None:
    participant = {"participant_id": "w", "host": "h", "data": "data1"}
    settings = {"host": "h", "project_id": "p", "example": "/nowhere/x", "participants": [participant]}
    assert "/nowhere/x" in demo.fail(settings, "register")


def test_a_notebook_finds_its_grid(grid: loopback.Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = told(grid, "wine")
    known = {name: settings[name] for name in ("host", "port", "participants")}
    monkeypatch.setenv(GRID, json.dumps({**known, "examples": str(EXAMPLES)}))
    found = here("wine", split="non_iid")
    assert found.host == grid.ttp and found.example == EXAMPLES / "wine" and found.project_id == "wine"
    assert found.tag(found.participants[1], "train") == ["wine", "dataset", "data2", "non_iid_train"]
    assert found.tag(found.participants[1], "predict") == ["wine", "dataset", "data2", "predict"]
    for text in ("", "[]", "{"):
        monkeypatch.setenv(GRID, text)
        with pytest.raises(Invalid, match=GRID):
            here("wine")
