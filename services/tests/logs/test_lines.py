"""What a line looks like, on standard output and as GELF, whatever is logged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from synergos.logs import bound, carry, current, gelf
from synergos.logs.lines import Foreign, Lines

LIMIT = 2 * 2**20


class Kept(list[bytes]):
    """Stands where a sender is, as a list can: `put` is all that a line does with it."""

    put = list.append


def written(
    capsys: pytest.CaptureFixture[str], severity: Any = "info", censored: Any = False, **event: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write one line; returns it as it was printed, and as it was sent."""
    lines, kept = Lines("w1", "worker", censored), Kept()
    lines.senders = {lines.logger: kept}  # type: ignore[dict-item]
    place = {"ID_path": "synergos/x.py", "ID_function": "f"}
    lines.write(severity, {"event": "happened", **event}, place)
    [sent] = kept
    assert sent.endswith(b"\0") and sent.count(b"\0") == 1 and len(sent) < LIMIT
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail), json.loads(sent[:-1])


def test_the_fields_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with bound(trace_id="t", collab_id="c", run_id=None):
        printed, sent = written(capsys, "warning", code=404, ratio=0.5, done=True, nothing=None, nested={"a": [1]})
    assert sent.pop("timestamp") > 1.7e9 and sent.pop("host")
    assert sent.pop("_line_id") == printed.pop("line_id")
    assert printed.pop("timestamp").endswith("Z")
    assert printed == {
        "level": "warning",
        "event": "happened",
        "logger": "WKR_w1",
        "component": "worker",
        "node": "w1",
        "trace_id": "t",
        "collab_id": "c",
        "code": 404,
        "ratio": 0.5,
        "done": True,
        "nothing": None,
        "nested": {"a": [1]},
        "ID_path": "synergos/x.py",
        "ID_function": "f",
    }
    assert sent == {
        "version": "1.1",
        "short_message": "[WKR_w1] happened ratio=0.5 done=True",
        "level": 4,
        "_level_name": "warning",
        "_event": "happened",
        "_logger": "WKR_w1",
        "_component": "worker",
        "_node": "w1",
        "_trace_id": "t",
        "_collab_id": "c",
        "_code": 404,
        "_ratio": 0.5,
        "_done": "true",
        "_nested": '{"a":[1]}',
        "_ID_path": "synergos/x.py",
        "_ID_function": "f",
    }


def test_names_that_the_server_keeps_for_itself_are_moved(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"id": "1", "level": 9, "timestamp": 8, "message": "m", "host": "h", "source": "s", "a.b c": 1, "logger": "l"}
    printed, sent = written(capsys, **odd)
    assert (printed["level"], printed["level_"], printed["logger"], printed["logger_"]) == ("info", 9, "WKR_w1", "l")
    assert sent["level"] == 6 and isinstance(sent["timestamp"], float) and sent["_logger"] == "WKR_w1"
    moved = {"_id_": "1", "_level_": 9, "_timestamp_": 8, "_message_": "m", "_host_": "h", "_source_": "s", "_a_b_c": 1}
    assert moved.items() <= sent.items()
    assert "_id" not in sent


def test_whatever_is_logged_becomes_a_message_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    endless: dict[str, Any] = {}
    endless["endless"] = endless
    for value in ("\0 \ud800 ä", b"\xff", {1: 2}, {(1, 2): 3}, endless, object(), [float("nan")], {1, 2}):
        printed, sent = written(capsys, value=value)
        assert printed["event"] == sent["_event"] == "happened"
        assert sent.get("_value") is None or isinstance(sent["_value"], str)
    for number in (float("nan"), float("inf"), 2**63):
        printed, sent = written(capsys, value=number)
        assert "_value" not in sent, "the server would refuse the whole line"
    assert printed["value"] == 2**63


def test_a_line_has_a_largest_size(capsys: pytest.CaptureFixture[str]) -> None:
    _, sent = written(capsys, value="ü" * 50_000, values=list(range(50_000)))
    for name in ("_value", "_values"):
        assert len(sent[name].encode()) <= 32_766 and " characters … " in sent[name]
    _, sent = written(capsys, **{f"value_{number}": "😀" * 50_000 for number in range(200)}, exception="x" * 3_000_000)
    assert len(json.dumps(sent)) < LIMIT and sent["full_message"].startswith("xxx")
    assert gelf.shorten("a" * 1000 + "end", 100).endswith("end") and len(gelf.shorten("a" * 1000, 100)) == 100


def test_an_error_brings_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        printed, sent = written(capsys, "error", exc_info=True)
    assert printed["exception"] == sent["full_message"]
    assert sent["full_message"].startswith("Traceback") and sent["full_message"].endswith("KeyError: 'missing'")


def test_paths_are_censored_by_their_keys_at_any_depth(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [f"{name}_DIR" for name in ("SRC", "IN", "OUT", "DATA", "MODEL", "CUSTOM", "TEST")]
    others = ["DB_PATH", "CACHE_TEMPLATE", "PREDICT_TEMPLATE", "DB_TEMPLATE"]
    paths = dict.fromkeys([*folders, *others], "/private")
    event = {**paths, "folder": "/private", "deep": [{"deeper": {**paths, "kept": 1}}], "run_id": "r"}
    printed, sent = written(capsys, censored=True, **event)
    assert "/private" not in json.dumps([printed, sent])
    assert printed["deep"][0]["deeper"] == {**dict.fromkeys(paths, "*CENSORED*"), "kept": 1}
    assert (printed["ID_path"], printed["run_id"], sent["_SRC_DIR"]) == ("synergos/x.py", "r", "*CENSORED*")
    printed, _ = written(capsys, **event)
    assert printed["deep"][0]["deeper"]["DB_PATH"] == "/private", "without --censored"
    printed, _ = written(capsys, censored=True, event="request", path="/ttp/jobs", method="GET")
    assert printed["path"] == "/ttp/jobs", "a URL"


def test_secrets_are_masked_always(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "s3cr3t"
    names = ("token", "Authorization", "admin_password", "secrets")
    written_ = written(capsys, deep={"list": [dict.fromkeys(names, secret)]}, **dict.fromkeys(names, secret))
    assert secret not in json.dumps(written_)


def test_what_is_bound_goes_into_threads_only_where_it_is_carried() -> None:
    with bound(run_id="r"), ThreadPoolExecutor(2) as pool:
        assert dict(pool.submit(current).result()) == {}
        barrier = threading.Barrier(2)

        def together() -> dict[str, Any]:
            barrier.wait(5)
            return dict(current())

        carried = carry(together)
        assert [each.result() for each in [pool.submit(carried), pool.submit(carried)]] == [{"run_id": "r"}] * 2
        with bound(run_id="other", expt_id="e"):
            assert dict(current()) == {"run_id": "other", "expt_id": "e"}
        assert dict(pool.submit(current).result()) == {}
    assert dict(current()) == {}


def test_what_libraries_log_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("a.library")
    library.addHandler(handler := Foreign(Lines("w1", "ttp")))
    library.propagate = False
    try:
        library.warning("%s of %d", "one", 2)
        library.warning("%d", "no number")
    finally:
        library.removeHandler(handler)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["event"], first["level"], first["logger"]) == ("one of 2", "warning", "TTP_w1")
    assert first["ID_path"] == "a/library" and second["event"] == "%d"


def test_a_line_says_where_it_comes_from() -> None:
    program = """
from synergos import cli, logs
logs.configure(cli.parse(cli.parser("ttp"), ["-i", "t", "--debug"]), "ttp")
class Owner:
    def method(self):
        logs.get_logger("x").debug("here", a=1)
        def inner():
            try:
                1 / 0
            except ZeroDivisionError:
                logs.get_logger("x").bind(b=2).exception("there")
        inner()
Owner().method()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = {line["event"]: line for line in map(json.loads, done.stdout.splitlines())}
    here, there = lines["here"], lines["there"]
    assert (here["ID_class"], here["ID_function"], here["lineno"], here["level"]) == ("Owner", "method", 6, "debug")
    assert (there["ID_function"], there["b"], there["level"]) == ("inner", 2, "error")
    assert "ZeroDivisionError" in there["exception"]
    assert lines["input parameters"]["parameters"]["id"] == "t"
