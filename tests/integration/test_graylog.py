"""The module `graylog` against a Graylog of its own, of the collection's images; own names, all removed afterwards."""

from __future__ import annotations

import base64
import copy
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue  # noqa: E402

NAME = f"graylogtest{os.getpid()}"
LABELS = {"org.synergos.test": NAME}
SUBNET = "10.213.42.0/24"
HOSTS = {"mongo": "10.213.42.8", "elasticsearch": "10.213.42.9", "logger": "10.213.42.10"}
PASSWORD = "b0rr0wed-from-nobody"
CONFIGURATION = f"password_secret = {'p' * 24}\nroot_password_sha2 = {hashlib.sha256(PASSWORD.encode()).hexdigest()}\n"
PREFIXES = {"SYS_": 9100, "DIR_": 9200, "TTP_": 9300, "WKR_": 9400}
METRICS = [
    "cpu_percent",
    *(f"memory_{name}" for name in ("total", "available", "used", "free")),
    *(f"disk_{name}" for name in ("read_counter", "write_counter", "read_bytes", "write_bytes")),
    *(f"net_{name}" for name in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")),
]


def content() -> dict[str, Any]:
    """What the role gives the module."""
    names = ("defaults/main.yml", "vars/main.yml", "files/dashboards.yml")
    defaults, variables, dashboards = (yaml.safe_load((ROOT / "roles/logger" / name).read_text()) for name in names)
    return {
        "index_set": defaults["logger_index_set"],
        "inputs": variables["logger__inputs"],
        "streams": variables["logger__streams"],
        "dashboards": dashboards["dashboards"],
    }


def run_module(check: bool = False, **args: Any) -> dict[str, Any]:
    """Run the module in a process of its own, as Ansible does, and return its result."""
    args |= {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}
    finished = subprocess.run(
        [sys.executable, "-m", "ansible_collections.synergos.grid.plugins.modules.graylog"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": args}),
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert "Traceback" not in finished.stderr + finished.stdout, finished.stderr
    assert args["password"] not in finished.stdout + finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    print(result.get("msg", ""), result.get("actions"))  # shown if the test fails
    return result


class Stack:
    """A Graylog with its two databases, and its API as its pages use it."""

    def __init__(self, server: Container, url: str) -> None:
        self.server = server
        self.url = url

    def __call__(self, check: bool = False, **options: Any) -> dict[str, Any]:
        return run_module(check, **{"url": self.url, "password": PASSWORD, "wait_timeout": 300, **content(), **options})

    def api(self, method: str, path: str, body: Any = None) -> Any:
        login = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {login}", "X-Requested-By": "test", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def input(self, title: str) -> dict[str, Any]:
        found: dict[str, Any] = one(self.api("GET", "/system/inputs")["inputs"], title)
        return found

    def stream(self, title: str) -> dict[str, Any]:
        found: dict[str, Any] = one(self.api("GET", "/streams")["streams"], title)
        return found

    def view(self) -> dict[str, Any]:
        found: dict[str, Any] = one(self.api("GET", "/dashboards")["views"], "Synergos Dashboard")
        return found

    def index_set(self) -> dict[str, Any]:
        sets: list[dict[str, Any]] = self.api("GET", "/system/indices/index_sets")["index_sets"]
        return next(item for item in sets if item["index_prefix"] == "graylog")

    def starts(self, identifier: str) -> set[str]:
        """When the input was started that runs; for a moment after a change it is listed twice."""
        states = self.api("GET", "/system/inputstates")["states"]
        return {state["started_at"] for state in states if (state["id"], state["state"]) == (identifier, "RUNNING")}

    def all_run(self) -> bool:
        """Whether every input runs. One that was changed is also listed as it was before, for a moment."""
        states = self.api("GET", "/system/inputstates")["states"]
        running = {state["id"] for state in states if state["state"] == "RUNNING"}
        return running == {item["id"] for item in self.api("GET", "/system/inputs")["inputs"]}


def one(items: list[dict[str, Any]], title: str) -> dict[str, Any]:
    (found,) = [item for item in items if item["title"] == title]
    return found


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A Graylog that has just been started and is empty."""
    needed = list(HOSTS)
    subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "tests/image.yml",
            "-e",
            json.dumps({"images_required": needed}),
        ],
        cwd=ROOT,
        check=True,
    )
    definitions = _catalogue.load(ROOT / "images")
    images = _catalogue.references(definitions, _catalogue.select(definitions, needed, {}), {})
    engine = docker.from_env()
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(SUBNET)])
    network = engine.networks.create(NAME, ipam=pool, labels=LABELS)
    containers: list[Container] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # one that stays the same when the container is restarted

    def start(component: str, **more: Any) -> Container:
        address = docker.types.EndpointConfig(engine.api._version, ipv4_address=HOSTS[component], aliases=[component])
        container = engine.containers.create(
            images[component],
            name=f"{NAME}_{component}",
            labels=LABELS,
            network=NAME,
            networking_config={NAME: address},
            **more,
        )
        containers.append(container)
        container.start()
        return container

    try:
        start("mongo")
        start("elasticsearch", environment={"ES_JAVA_OPTS": "-Xms384m -Xmx384m"})
        setup = (
            "mkdir -p /tmp/g && printf '%s' \"$CONFIGURATION\" > /tmp/g/server.conf && exec graylog /tmp/g/server.conf"
        )
        server = start(
            "logger",
            entrypoint=["bash", "-c", setup],
            ports={"9000/tcp": ("127.0.0.1", port)},
            environment={
                "CONFIGURATION": CONFIGURATION,
                "GRAYLOG_MONGODB_URI": "mongodb://mongo/graylog",
                "GRAYLOG_ELASTICSEARCH_HOSTS": "http://elasticsearch:9200",
                "GRAYLOG_SERVER_JAVA_OPTS": "-Xms384m -Xmx384m",
            },
        )
        yield Stack(server, f"http://127.0.0.1:{port}")
    finally:
        for container in containers:
            container.remove(force=True, v=True)
        network.remove()
        engine.close()


def names(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(action["kind"], action["name"], action["action"]) for action in result["actions"]]


def test_without_graylog_check_mode_says_what_would_be_made_and_converging_fails() -> None:
    nowhere = {"url": "http://127.0.0.1:9", "password": PASSWORD, **content()}
    planned = run_module(True, **nowhere)
    assert planned["changed"] and planned["version"] is None
    kinds = [kind for kind, _, _ in names(planned)]
    assert kinds == ["index_set"] + ["input"] * 4 + ["stream"] * 4 + ["dashboard"]
    failed = run_module(**nowhere, wait_timeout=1)
    assert failed["failed"] and "127.0.0.1:9 does not answer" in failed["msg"]


def test_a_fresh_graylog_is_waited_for_and_configured_once(stack: Stack) -> None:
    made = stack()
    assert made["changed"] and made["version"] == "3.3", made
    assert [kind for kind, _, _ in names(made)] == ["index_set"] + ["input"] * 4 + ["stream"] * 4 + ["dashboard"]
    assert stack.all_run() and len(stack.api("GET", "/system/inputs")["inputs"]) == 4
    assert stack.api("GET", "/system/deflector")["is_up"]
    assert not any(stack.stream(option["title"])["disabled"] for option in content()["streams"])
    tabs = [state["titles"]["tab"]["title"] for state in stack.view()["state"].values()]
    assert sorted(tabs) == ["Director Analysis", "Sysmetrics Analysis", "TTP Analysis", "Worker Analysis"]
    assert sum(len(state["widgets"]) for state in stack.view()["state"].values()) == 3 * 3 + 12
    again = stack()
    assert not again["changed"] and again["actions"] == [], again


def edit_input(**changes: Any) -> Callable[[Stack], None]:
    def harm(stack: Stack) -> None:
        item = stack.input("TTP Logs")
        body = {key: item[key] for key in ("type", "global")}
        body |= {"title": changes.get("title", item["title"]), "configuration": {**item["attributes"], **changes}}
        body["configuration"].pop("title", None)
        before = stack.starts(item["id"])
        stack.api("PUT", f"/system/inputs/{item['id']}", body)
        # Graylog restarts it up to a second later, and loses it where the next edit comes before that.
        until = time.monotonic() + 30
        while not stack.starts(item["id"]) - before:
            assert time.monotonic() < until, "Graylog has not restarted the input"
            time.sleep(0.1)

    return harm


def delete_input(stack: Stack) -> None:
    stack.api("DELETE", f"/system/inputs/{stack.input('Worker Logs')['id']}")


def stop_input(stack: Stack) -> None:
    stack.api("DELETE", f"/system/inputstates/{stack.input('Worker Logs')['id']}")


def delete_rule(stack: Stack) -> None:
    stream = stack.stream("Worker Stream")
    stack.api("DELETE", f"/streams/{stream['id']}/rules/{stream['rules'][0]['id']}")


def add_rule(stack: Stack) -> None:
    rule = {"field": "level", "type": 1, "value": "3", "inverted": False, "description": ""}
    stack.api("POST", f"/streams/{stack.stream('Worker Stream')['id']}/rules", rule)


def pause_stream(stack: Stack) -> None:
    stack.api("POST", f"/streams/{stack.stream('Worker Stream')['id']}/pause")


def rename_stream(stack: Stack) -> None:
    stack.api("PUT", f"/streams/{stack.stream('Worker Stream')['id']}", {"title": "Mine"})


def delete_stream(stack: Stack) -> None:
    stack.api("DELETE", f"/streams/{stack.stream('Director Stream')['id']}")


def edit_dashboard(change: Callable[[dict[str, Any]], object]) -> Callable[[Stack], None]:
    def harm(stack: Stack) -> None:
        view = stack.view()
        change(view)
        stack.api("PUT", f"/views/{view['id']}", view)

    return harm


def tab(view: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [state for state in view["state"].values() if state["titles"]["tab"]["title"] == title]
    return found  # type: ignore[no-any-return]


def remove_widget(view: dict[str, Any]) -> None:
    state = tab(view, "TTP Analysis")
    gone = state["widgets"].pop()["id"]
    for part in (state["titles"]["widget"], state["positions"], state["widget_mapping"]):
        part.pop(gone)


def move_widget(view: dict[str, Any]) -> None:
    next(iter(tab(view, "Worker Analysis")["positions"].values()))["row"] = 99


def change_widget(view: dict[str, Any]) -> None:
    for widget in tab(view, "Sysmetrics Analysis")["widgets"]:
        widget["timerange"] = {"type": "relative", "range": 7200}


def save_other_search(stack: Stack) -> None:
    """As Graylog's pages do with every edit."""
    view = stack.view()
    search = stack.api("GET", f"/views/search/{view['search_id']}")
    stack.api("POST", "/views/search", {**search, "id": "0123456789abcdef01234567"})
    stack.api("PUT", f"/views/{view['id']}", {**view, "search_id": "0123456789abcdef01234567"})


def delete_dashboard(stack: Stack) -> None:
    stack.api("DELETE", f"/views/{stack.view()['id']}")


def edit_index_set(**changes: Any) -> Callable[[Stack], None]:
    def harm(stack: Stack) -> None:
        current = stack.index_set()
        stack.api("PUT", f"/system/indices/index_sets/{current['id']}", {**current, **changes})

    return harm


COUNT = "org.graylog2.indexer.rotation.strategies.MessageCountRotationStrategy"
DELETION = "org.graylog2.indexer.retention.strategies.DeletionRetentionStrategyConfig"
BY_COUNT = {"rotation_strategy_class": COUNT, "rotation_strategy": {"type": COUNT + "Config", "max_docs_per_index": 7}}
KEEP_TWO = {"retention_strategy": {"type": DELETION, "max_number_of_indices": 2}}
DRIFT = [
    (edit_input(title="Mine"), ("input", "TTP Logs", "update"), "title"),
    (edit_input(port=9399), ("input", "TTP Logs", "update"), "port"),
    (edit_input(max_message_size=4096), ("input", "TTP Logs", "update"), "max_message_size"),
    (edit_input(use_null_delimiter=False), ("input", "TTP Logs", "update"), "use_null_delimiter"),
    (delete_input, ("input", "Worker Logs", "create"), "state"),
    (stop_input, ("input", "Worker Logs", "start"), "state"),
    (delete_rule, ("stream", "Worker Stream", "update"), "rules"),
    (add_rule, ("stream", "Worker Stream", "update"), "rules"),
    (pause_stream, ("stream", "Worker Stream", "update"), "disabled"),
    (rename_stream, ("stream", "Worker Stream", "update"), "title"),
    (edit_dashboard(remove_widget), ("dashboard", "Synergos Dashboard", "update"), "TTP Analysis / "),
    (edit_dashboard(move_widget), ("dashboard", "Synergos Dashboard", "update"), "Worker Analysis / "),
    (edit_dashboard(change_widget), ("dashboard", "Synergos Dashboard", "update"), "Sysmetrics Analysis / CPU"),
    (save_other_search, ("dashboard", "Synergos Dashboard", "update"), "search"),
    (delete_dashboard, ("dashboard", "Synergos Dashboard", "create"), "state"),
    (edit_index_set(**BY_COUNT), ("index_set", "graylog", "update"), "rotation_strategy_class"),
    (edit_index_set(**KEEP_TWO), ("index_set", "graylog", "update"), "retention_strategy.max_number_of_indices"),
]


@pytest.mark.parametrize(("harm", "action", "named"), DRIFT)
def test_what_a_hand_edited_is_named_and_put_right(
    stack: Stack, harm: Callable[[Stack], None], action: tuple[str, str, str], named: str
) -> None:
    harm(stack)
    planned = stack(check=True)
    assert names(planned) == [action], planned
    properties = [reason["property"] for reason in planned["actions"][0]["reasons"]]
    assert any(text.startswith(named) for text in properties), properties
    assert named in planned["diff"]["before"] and planned["diff"]["before"] != planned["diff"]["after"]
    assert stack(check=True)["actions"] == planned["actions"]  # check mode has changed nothing
    assert stack()["actions"] == planned["actions"]
    assert stack.all_run()
    assert not stack()["changed"]


def test_a_stream_that_was_deleted_comes_back_and_its_tab_shows_it(stack: Stack) -> None:
    delete_stream(stack)
    repaired = stack()
    assert [name[:2] for name in names(repaired)] == [
        ("stream", "Director Stream"),
        ("dashboard", "Synergos Dashboard"),
    ]
    widgets = tab(stack.view(), "Director Analysis")["widgets"]
    assert {stream for widget in widgets for stream in widget["streams"]} == {stack.stream("Director Stream")["id"]}
    assert not stack()["changed"]


def test_a_renamed_dashboard_gets_its_title_back(stack: Stack) -> None:
    view = stack.view()
    stack.api("PUT", f"/views/{view['id']}", {**view, "title": "Mine"})
    repaired = stack()
    assert [reason["property"] for reason in repaired["actions"][0]["reasons"]] == ["title"]
    assert stack.view()["id"] == view["id"]


def test_rotation_by_time_and_by_count(stack: Stack) -> None:
    plain = content()["index_set"]
    for option in ({"rotation": "time", "period": "P1D"}, {"rotation": "count", "max_documents": 1000}):
        assert stack(index_set={**plain, **option})["changed"]
        assert not stack(index_set={**plain, **option})["changed"]
    assert stack.index_set()["rotation_strategy"]["max_docs_per_index"] == 1000
    assert stack()["changed"]


def test_what_others_made_is_left_alone(stack: Stack) -> None:
    index_set = stack.index_set()["id"]
    raw = {"bind_address": "0.0.0.0", "port": 9555, "max_message_size": 4096}
    body = {"title": "Theirs", "type": "org.graylog2.inputs.raw.tcp.RawTCPInput", "global": True, "configuration": raw}
    theirs = stack.api("POST", "/system/inputs", body)["id"]
    stream = {"title": "Theirs", "description": "", "rules": [], "index_set_id": index_set}
    stream_id = stack.api("POST", "/streams", stream)["stream_id"]
    copied = {**stack.view(), "id": "aaaabbbbccccddddeeeeffff", "title": "Synergos Dashboard (mine)"}
    stack.api("POST", "/views", copied)

    def theirs_now() -> list[Any]:
        inputs = [item for item in stack.api("GET", "/system/inputs")["inputs"] if item["id"] == theirs]
        return [inputs, stack.stream("Theirs"), stack.api("GET", f"/views/{copied['id']}")]

    before = copy.deepcopy(theirs_now())
    assert not stack()["changed"]
    delete_rule(stack)
    stop_input(stack)
    assert stack()["changed"]
    assert theirs_now() == before

    taken = stack(inputs=[{"title": "New", "port": 9555}])
    assert taken["failed"] and "'New' cannot have port 9555: 'Theirs'" in taken["msg"]
    stack.api("DELETE", f"/system/inputs/{theirs}")
    stack.api("DELETE", f"/streams/{stream_id}")
    stack.api("DELETE", f"/views/{copied['id']}")
    assert not stack()["changed"]


def test_a_port_that_something_else_has_is_named(stack: Stack) -> None:
    failed = stack(inputs=[{"title": "Pages", "port": 9000}])
    assert failed["failed"] and "cannot open the input 'Pages' at port 9000: bind" in failed["msg"], failed
    stack.api("DELETE", f"/system/inputs/{stack.input('Pages')['id']}")


@pytest.mark.parametrize("password", ["admin", "password", "graylog", "yabbadabbadoo", "synergos", "changeme", ""])
def test_usual_and_wrong_passwords_are_refused(stack: Stack, password: str) -> None:
    login = base64.b64encode(f"admin:{password}".encode()).decode()
    request = urllib.request.Request(f"{stack.url}/api/system", headers={"Authorization": f"Basic {login}"})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)


def test_a_wrong_password_fails_at_once(stack: Stack) -> None:
    started = time.monotonic()
    failed = stack(password="not-this-one")
    assert failed["failed"] and "does not take this password" in failed["msg"]
    assert time.monotonic() - started < 60


def test_an_unknown_index_set_is_named(stack: Stack) -> None:
    failed = stack(index_set={**content()["index_set"], "prefix": "mine"})
    assert failed["failed"] and "no index set with the prefix 'mine'" in failed["msg"] and "gl-events" in failed["msg"]


def test_what_is_not_graylog_is_told(stack: Stack) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        failed = stack(url=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert failed["failed"] and "is not Graylog" in failed["msg"]


def send(prefix: str, text: str, port: int) -> None:
    """Send one GELF message as a component does."""
    message = {"version": "1.1", "host": "test", "short_message": text, "_logger": f"{prefix}test"}
    if prefix == "SYS_":
        message |= {f"_{name}": number for number, name in enumerate(METRICS, start=1)}
    with socket.create_connection((HOSTS["logger"], port), timeout=10) as connection:
        connection.sendall(json.dumps(message).encode() + b"\0")


def is_figure(series: str, value: float | None) -> bool:
    """Whether there is something behind a value: where no message has it, count and sum are 0 and all else is null."""
    return value is not None and (value > 0 or not series.startswith(("count", "sum")))


def empty_widgets(stack: Stack) -> list[str]:
    """Run the dashboard's search and return the widgets that would show nothing, or lack one of their curves."""
    view = stack.view()
    done = stack.api("POST", f"/views/search/{view['search_id']}/execute", {})["results"]
    empty = []
    for query, tab in view["state"].items():
        for widget in tab["widgets"]:
            (search,) = tab["widget_mapping"][widget["id"]]
            found = done[query]["search_types"][search]
            values = [value for row in found.get("rows", []) for value in row["values"]]
            shown = {value["key"][-1] for value in values if is_figure(value["key"][-1], value["value"])}
            curves = {series["function"] for series in widget["config"].get("series", [])}
            if not (curves <= shown if curves else found["messages"]):
                empty.append(f"{tab['titles']['tab']['title']} / {tab['titles']['widget'][widget['id']]}")
    return sorted(empty)


def test_every_widget_shows_what_arrives(stack: Stack) -> None:
    assert len(empty_widgets(stack)) == 21
    until = time.monotonic() + 90
    while True:
        for prefix, port in PREFIXES.items():
            send(prefix, "hello", port)
        left = empty_widgets(stack)
        if not left or time.monotonic() > until:
            break
        time.sleep(2)
    assert left == []


def settled(stack: Stack) -> int:
    """Return how many messages are stored once none has been added for longer than the index takes to show one."""
    count, since = stored(stack), time.monotonic()
    while time.monotonic() - since < 10:
        time.sleep(1)
        if (now := stored(stack)) != count:
            count, since = now, time.monotonic()
    return count


def stored(stack: Stack) -> int:
    overview = stack.api("GET", f"/system/indexer/overview/{stack.index_set()['id']}")
    return sum((index["size"] or {})["events"] for index in overview["indices"].values())


def test_purging_deletes_messages_and_nothing_else(stack: Stack) -> None:
    send("WKR_", "before the purge", PREFIXES["WKR_"])
    before = settled(stack)
    assert before > 0
    planned = stack(check=True, state="purged")
    assert names(planned) == [("messages", "graylog", "delete")] and stored(stack) == before
    assert stack(state="purged")["changed"]
    assert stored(stack) == 0
    assert not stack(state="purged")["changed"]
    assert not stack()["changed"]
    send("WKR_", "after the purge", PREFIXES["WKR_"])
    assert settled(stack) == 1


def test_right_after_a_restart_nothing_has_changed(stack: Stack) -> None:
    stack.server.restart(timeout=30)
    again = stack()
    assert not again["changed"], again
    assert stack.all_run()
