"""Trace ids on their way: the header, the answers, and a job that is taken up by another process."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from grid_double import EXPERIMENT, Grid, PlainClient, register
from test_ttp_process import REST, stop, ttp

from synergos import Driver, trace

ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f"00-{ID}-b7ad6b7169203331-01", ID),
        (f"00-{ID}-b7ad6b7169203331-00", ID),
        (f" 00-{ID}-b7ad6b7169203331-01 ", ID),
        (f"cc-{ID}-b7ad6b7169203331-01-what-the-future-brings", ID),
        (f"00-{ID}-b7ad6b7169203331-01-more", None),
        (f"ff-{ID}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{ID}-{'0' * 16}-01", None),
        (f"00-{ID.upper()}-b7ad6b7169203331-01", None),
        (f"00-{ID[:-1]}-b7ad6b7169203331-01", None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_a_header_is_read_as_the_recommendation_says(value: str, found: str | None) -> None:
    assert trace.read(value) == found


def test_every_header_has_a_parent_of_its_own() -> None:
    first, second = trace.header(ID), trace.header(ID)
    assert trace.read(first) == trace.read(second) == ID and first != second


def test_an_answer_carries_the_trace_of_its_request(grid: Grid) -> None:
    given = httpx.get(f"{grid.url}/ttp/connect/collaborations", headers={"traceparent": trace.header(ID)})
    assert trace.read(given.headers["traceparent"]) == ID
    refused = httpx.post(f"{grid.url}/ttp/connect/collaborations", content=b"{", headers={"traceparent": "nonsense"})
    made = trace.read(refused.headers["traceparent"])
    assert refused.status_code == 417 and made not in (None, ID)


def test_a_driver_has_one_trace(grid: Grid) -> None:
    host, _, port = grid.url.removeprefix("http://").partition(":")
    driver, other = Driver(host, int(port), trace_id=ID), Driver(host, int(port))
    assert driver.trace_id == driver.projects.trace_id == ID
    assert other.trace_id == other.runs.trace_id != Driver(host, int(port)).trace_id
    register(PlainClient(grid.url))
    assert driver.alignments.create("c1", "p1")["status"] == 201
    assert other.alignments.create("c1", "p1")["status"] == 201
    assert [job["trace_id"] for job in driver.jobs.read_all()["data"]] == [ID, other.trace_id]
    for nonsense in ("0" * 32, ID.upper(), "abc"):
        with pytest.raises(ValueError, match="32 lower-case hexadecimal digits"):
            Driver(host, int(port), trace_id=nonsense)


def test_a_job_that_is_taken_up_again_keeps_its_trace(tmp_path: Path) -> None:
    program = [str(Path(__file__).with_name("ttp_double.py"))]
    with ThreadPoolExecutor() as pool, ttp(tmp_path, program=program, HOLD="r1") as process:
        client = PlainClient(REST)
        register(client)
        client.ok("POST", f"{EXPERIMENT}/runs", {"run_id": "r1"})
        driver = Driver("127.0.0.1", 5000, trace_id=ID)
        driver.alignments.create("c1", "p1")
        waiting = pool.submit(driver.models.create, "c1", "p1", "e1", "r1")
        while not (tmp_path / "trained").exists():
            time.sleep(0.05)
        process.kill()
        with pytest.raises(httpx.TransportError):
            waiting.result()
    with ttp(tmp_path, program=program) as process:
        while driver.jobs.read_all()["data"][-1]["state"] != "done":
            time.sleep(0.05)
        log, _ = stop(process)
    of_job = {line["event"]: line for line in log if line.get("process") == "train"}
    assert {"job taken up again", "job taken", "job ended"} <= of_job.keys()
    assert {line["trace_id"] for line in of_job.values()} == {ID}
    assert of_job["job ended"]["run_id"] == "r1"
