"""Whatever is killed, and whenever: no job is lost, none is done twice in the records, and no figure differs.

Each test leaves a run of one project to be trained or validated, disturbs that, and compares what comes of it with
what came of a run of the same seed that nobody disturbed. With SYNERGOS_FULL every party dies at every moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import EXAMPLES, PARTICIPANTS, Cluster, full, ok, until
from moment import MOMENTS

from synergos.queue import Completed
from synergos.queue.messages import encode

QUEUES = ("preprocess", "train", "evaluate", "completed", "dead")
TTPS = ("sync_ttp_1", "sync_ttp_2")
ROUNDS = 200


def some(moments: dict[str, Any], *short: str) -> list[Any]:
    """Return the moments as parameters; without SYNERGOS_FULL only those of `short` are tried."""
    return [pytest.param(name, marks=() if name in short else full) for name in moments]


class Project:
    """An aligned project with a run that was trained and validated undisturbed, and runs like it.

    Attributes:
        seconds: that the undisturbed training took.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.driver = cluster, cluster.driver
        self.keys = cluster.describe("faults", rounds=ROUNDS)
        cluster.align(self.keys)
        begin = time.monotonic()
        ok(self.driver.models.create(*self.keys, "run_1"))
        self.end("run_1")
        self.seconds = time.monotonic() - begin
        ok(self.driver.validations.create(*self.keys, "run_1"))
        self.end("run_1", "validate")
        self.reference = self.weights("run_1"), self.rounds("run_1"), self.statistics("run_1")

    def run(self, name: str, **other: Any) -> str:
        """Register a run like the undisturbed one."""
        name = name.replace(" ", "_")
        settings = json.loads((EXAMPLES / "diabetes" / "hyperparameters.json").read_text())
        settings |= {"rounds": ROUNDS, "seed": 1, **other}
        ok(self.driver.runs.create(*self.keys, name, **{**settings, "patience": settings["rounds"]}))
        return name

    def jobs(self, run: str, process: str = "train") -> list[dict[str, Any]]:
        return self.cluster.jobs(collab_id="faults", run_id=run, process=process)

    def job(self, run: str, process: str = "train") -> dict[str, Any]:
        [job] = self.jobs(run, process)
        return job

    def part(self, run: str, process: str = "train") -> dict[str, Any]:
        """Return what is told of the one part of a job; nothing before there is one."""
        return next(iter(self.job(run, process)["progress"].get("parts", [])), {})

    def end(self, run: str, process: str = "train", state: str = "done") -> dict[str, Any]:
        """Wait until a job has ended as it should, whoever is away meanwhile."""

        def ended() -> bool:
            try:
                return self.job(run, process)["state"] not in ("queued", "running")
            except Exception:
                return False

        until(ended, 150)
        job = self.job(run, process)
        assert job["state"] == state, job
        return job

    def begun(self, run: str, rounds: int = 20) -> str:
        """Wait until a training is in its middle; returns the TTP that has it."""
        until(lambda: len(self.job(run)["progress"]["rounds"]) > rounds, 120)
        ttp: str = self.part(run)["ttp"]
        return ttp

    def weights(self, run: str) -> dict[str, str]:
        """Return a checksum of each model of a run, and of its losses."""
        [model] = ok(self.driver.models.read(*self.keys, run))
        return {
            f"{name} {kind}": _checksum(Path(found[kind]))
            for name, found in model.items()
            if isinstance(found, dict) and "path" in found
            for kind in ("path", "loss_history")
        }

    def rounds(self, run: str) -> list[Any]:
        """Return the rounds that are listed, without what a clock said."""
        [model] = ok(self.driver.models.read(*self.keys, run))
        assert model["key"]["run_id"] == run
        return [
            (item["round"], item["train_loss"], item.get("previous_evaluate_loss"))
            for item in self.job(run)["progress"]["rounds"]
        ]

    def statistics(self, run: str) -> dict[str, Any]:
        """Return the figures of a validation."""
        found = ok(self.driver.validations.read(*self.keys, run))
        assert len(found) == len(PARTICIPANTS)
        return {record["key"]["participant_id"]: record["evaluate"]["statistics"] for record in found}

    def check(self, *runs: str, dead: int = 0, validated: bool = False) -> None:
        """Compare runs with the undisturbed one, and look that nothing is left over."""
        weights, rounds, statistics = self.reference
        for run in runs:
            assert (self.weights(run), self.rounds(run)) == (weights, rounds)
            if validated:
                assert self.statistics(run) == statistics
        until(lambda: [self.cluster.rabbit.count(name) for name in QUEUES] == [0, 0, 0, 0, dead])


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Holding:
    """Processes that stop at a moment of their work."""

    def __init__(self, cluster: Cluster, names: tuple[str, ...], moment: str) -> None:
        self.cluster = cluster
        self.folders = {name: cluster.root / name for name in names}
        self._clear()
        for folder in self.folders.values():
            (folder / "moment").write_text(moment)

    def reached(self) -> str:
        """Wait until a process is there, and return its name."""
        until(lambda: self._there() is not None, 150)
        name = self._there()
        assert name is not None
        for folder in self.folders.values():
            (folder / "moment").unlink(missing_ok=True)
        return name

    def go(self) -> None:
        """Let it go on."""
        for folder in self.folders.values():
            (folder / "moment.go").touch()

    def kill(self) -> str:
        """Kill the process that is there, so that it forgets about it; returns its name."""
        name = self.reached()
        self.cluster.kill(name)
        self._clear()
        return name

    def _there(self) -> str | None:
        return next((name for name, folder in self.folders.items() if (folder / "moment.reached").exists()), None)

    def _clear(self) -> None:
        for folder in self.folders.values():
            for name in ("moment", "moment.reached", "moment.go"):
                (folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def project(cluster: Cluster) -> Project:
    return Project(cluster)


@pytest.fixture
def tell(project: Project, capsys: pytest.CaptureFixture[str]) -> Callable[[str, float], None]:
    """Print a row of the table: what happened, and how long after that all was done."""

    def row(fault: str, since: float) -> None:
        with capsys.disabled():
            seconds = time.monotonic() - since
            print(f"\n| {fault} | {seconds:.1f} s | {project.seconds:.1f} s |", flush=True)

    return row


Tell = Callable[[str, float], None]


@pytest.mark.parametrize("moment", some(MOMENTS["director"], "confirmed", "answer heard"))
def test_the_director_dies_while_it_trains(cluster: Cluster, project: Project, tell: Tell, moment: str) -> None:
    run = project.run(f"director {moment}")
    holding = Holding(cluster, ("sync_director",), moment)
    ok(project.driver.models.create(*project.keys, run))
    holding.kill()
    since = time.monotonic()
    time.sleep(1)
    cluster.start("sync_director")
    project.end(run)
    tell(f"Director killed: {moment}", since)
    project.check(run)


@full
@pytest.mark.parametrize("moment", ["stored", "sending", "confirmed", "answer heard", "answer stored", "result stored"])
def test_the_director_dies_while_it_validates(cluster: Cluster, project: Project, tell: Tell, moment: str) -> None:
    run = project.run(f"validated {moment}", rounds=3)
    ok(project.driver.models.create(*project.keys, run))
    project.end(run)
    ok(project.driver.validations.create(*project.keys, run))
    project.end(run, "validate")
    first = project.statistics(run)
    holding = Holding(cluster, ("sync_director",), moment)
    ok(project.driver.validations.create(*project.keys, run))
    holding.kill()
    since = time.monotonic()
    time.sleep(1)
    cluster.start("sync_director")
    until(lambda: [job["state"] for job in project.jobs(run, "validate")] == ["done"] * 2)
    tell(f"Director killed, validation: {moment}", since)
    assert project.statistics(run) == first
    project.check()


@full
def test_the_director_is_away_while_a_model_is_needed(cluster: Cluster, project: Project, tell: Tell) -> None:
    """A validation waits for the Director that has the model."""
    holding = Holding(cluster, TTPS, "taken")
    ok(project.driver.validations.create(*project.keys, "run_1"))
    holding.reached()
    cluster.kill("sync_director")
    since = time.monotonic()
    holding.go()
    time.sleep(3)
    cluster.start("sync_director")
    until(lambda: [job["state"] for job in project.jobs("run_1", "validate")] == ["done"] * 2)
    tell("Director away when a TTP needs the model", since)
    project.check("run_1", validated=True)


@full
@pytest.mark.parametrize("moment", ["sending", "confirmed", "answer heard", "answer stored", "result stored"])
def test_the_director_dies_while_it_aligns(cluster: Cluster, project: Project, tell: Tell, moment: str) -> None:
    keys = cluster.describe(f"aligned {moment}", rounds=5)
    holding = Holding(cluster, ("sync_director",), moment)
    ok(project.driver.alignments.create(*keys[:2]))
    holding.kill()
    since = time.monotonic()
    cluster.start("sync_director")
    [job] = cluster.done(collab_id=keys[0])
    tell(f"Director killed, alignment: {moment}", since)
    assert job["state"] == "done" and len(ok(project.driver.alignments.read(*keys[:2]))) == 2
    project.check()


@pytest.mark.parametrize("moment", some(MOMENTS["ttp"], "published"))
def test_a_ttp_dies(cluster: Cluster, project: Project, tell: Tell, moment: str) -> None:
    run = project.run(f"ttp {moment}")
    holding = Holding(cluster, TTPS, moment)
    ok(project.driver.models.create(*project.keys, run))
    name = holding.kill()
    since = time.monotonic()
    time.sleep(1)
    cluster.start(name)
    project.end(run)
    tell(f"TTP killed: {moment}", since)
    project.check(run)


@full
@pytest.mark.parametrize("other", ["goes on", "is away"])
def test_a_ttp_dies_in_the_middle(cluster: Cluster, project: Project, tell: Tell, other: str) -> None:
    """The other grid begins anew; without it, the TTP goes on where it was."""
    run = project.run(f"ttp in the middle other {other}")
    ok(project.driver.models.create(*project.keys, run))
    name = project.begun(run)
    [rest] = set(TTPS) - {name}
    if other == "is away":
        cluster.kill(rest)
    cluster.kill(name)
    since = time.monotonic()
    try:
        if other == "is away":
            cluster.start(name)
        project.end(run)
        tell(f"TTP killed in the middle, the other {other}", since)
        assert project.part(run)["ttp"] == (rest if other == "goes on" else name)
    finally:
        cluster.start(rest if other == "is away" else name)
    begun = [entry["first_round"] for entry in cluster.events("training begins") if entry.get("run_id") == run]
    assert begun[0] == 1 and (begun[-1] > 1) is (other == "is away")
    project.check(run)


@full
def test_a_ttp_answers_from_its_disk(cluster: Cluster, project: Project, tell: Tell) -> None:
    """What it finished and could not tell any more is not trained again."""
    run = project.run("from disk")
    cluster.kill("sync_ttp_2")
    holding = Holding(cluster, ("sync_ttp_1",), "done")
    ok(project.driver.models.create(*project.keys, run))
    holding.kill()
    since = time.monotonic()
    try:
        cluster.start("sync_ttp_1")
        project.end(run)
        tell("TTP killed: done, the other away", since)
    finally:
        cluster.start("sync_ttp_2")
    assert len([entry for entry in cluster.events("training begins") if entry.get("run_id") == run]) == 1
    project.check(run)


@full
def test_a_ttp_forgets_what_was_not_fetched(cluster: Cluster, project: Project, tell: Tell) -> None:
    """A result that the Director knows of and cannot get is made again."""
    run = project.run("not fetched")
    holding = Holding(cluster, ("sync_director",), "fetching")
    ok(project.driver.models.create(*project.keys, run))
    holding.kill()
    since = time.monotonic()
    for name in TTPS:
        cluster.kill(name)
        for file in (cluster.root / name / "outputs").rglob("*.pt"):
            file.unlink()
        for file in (cluster.root / name / "outputs").rglob(".token"):
            file.unlink()
    cluster.start(*TTPS, "sync_director")
    project.end(run)
    tell("TTP's disk lost before its result was fetched", since)
    assert project.part(run)["attempt"] == 2
    project.check(run)


@full
def test_a_ttp_restarts_before_its_result_is_fetched(cluster: Cluster, project: Project, tell: Tell) -> None:
    run = project.run("restarted before fetched")
    holding = Holding(cluster, ("sync_director",), "fetching")
    ok(project.driver.models.create(*project.keys, run))
    holding.kill()
    since = time.monotonic()
    cluster.kill(*TTPS)
    cluster.start("sync_director")
    time.sleep(3)
    cluster.start(*TTPS)
    project.end(run)
    tell("TTP restarted before its result was fetched", since)
    assert project.part(run)["attempt"] == 1
    project.check(run)


@full
def test_a_ttp_stands_still(cluster: Cluster, project: Project, tell: Tell) -> None:
    """The broker hands its job to the other grid; when it wakes, nobody needs what it does."""
    run = project.run("stands still")
    ok(project.driver.models.create(*project.keys, run))
    name = project.begun(run)
    cluster.processes[name].send_signal(signal.SIGSTOP)
    since = time.monotonic()
    try:
        project.end(run)
        tell("TTP stopped (SIGSTOP)", since)
        assert project.part(run)["ttp"] != name
    finally:
        cluster.processes[name].send_signal(signal.SIGCONT)
    project.check(run)
    other = project.run("after it stood still")
    ok(project.driver.models.create(*project.keys, other))
    project.end(other)
    project.check(run, other)


def test_no_ttp_is_there(cluster: Cluster, project: Project, tell: Tell) -> None:
    """Jobs wait, and it can be read that the broker has them."""
    runs = [project.run(f"nobody there {number}") for number in range(2)]
    cluster.kill(*TTPS)
    for run in runs:
        ok(project.driver.models.create(*project.keys, run))
    until(lambda: [project.part(run).get("state") for run in runs] == ["sent", "sent"])
    assert [project.job(run)["state"] for run in runs] == ["running"] * 2
    assert all("ttp" not in project.part(run) for run in runs) and cluster.rabbit.count("train") == 2
    since = time.monotonic()
    cluster.start(*TTPS)
    for run in runs:
        project.end(run)
    tell("No TTP there, then both started; 2 jobs", since)
    project.check(*runs)


@full
def test_two_ttps_with_one_grid(cluster: Cluster, project: Project, tell: Tell) -> None:
    """Started by mistake: both use the same workers, and one takes over when the other dies."""
    runs = [project.run(f"one grid {number}") for number in range(3)]
    cluster.kill("sync_ttp_2")
    cluster.extra["sync_ttp_9"] = 0
    try:
        cluster.start("sync_ttp_9")
        for run in runs:
            ok(project.driver.models.create(*project.keys, run))
        until(lambda: {project.part(run).get("ttp") for run in runs} >= {"sync_ttp_1", "sync_ttp_9"})
        cluster.kill("sync_ttp_9")
        since = time.monotonic()
        for run in runs:
            project.end(run)
        tell("Two TTPs with one grid index, one killed; 3 jobs", since)
    finally:
        cluster.extra.clear()
        cluster.start("sync_ttp_2")
    project.check(*runs)


@pytest.mark.parametrize("moment", some(dict.fromkeys(["queued", "running", "done", "published"]), "done"))
def test_the_broker_dies(cluster: Cluster, project: Project, tell: Tell, moment: str) -> None:
    """With jobs that wait, with one under way, while a result is to be published, and before it is acknowledged."""
    runs = [project.run(f"broker {moment} {number}") for number in range(2)]
    holding = Holding(cluster, TTPS, moment) if moment in MOMENTS["ttp"] else None
    if moment == "queued":
        cluster.kill(*TTPS)
    for run in runs:
        ok(project.driver.models.create(*project.keys, run))
    if holding:
        holding.reached()
    elif moment == "running":
        for run in runs:
            project.begun(run)
    else:
        until(lambda: cluster.rabbit.count("train") == 2)
    cluster.rabbit.kill()
    since = time.monotonic()
    if holding:
        holding.go()
    time.sleep(1)
    cluster.rabbit.start()
    if moment == "queued":
        cluster.start(*TTPS)
    for run in runs:
        project.end(run)
    tell(f"Broker killed, 2 jobs: {moment}", since)
    project.check(*runs)


@full
def test_a_queue_is_emptied(cluster: Cluster, project: Project, tell: Tell) -> None:
    """Or a broker begins with an empty disk: the Director sends again what nobody had taken."""
    run = project.run("emptied")
    cluster.kill(*TTPS)
    ok(project.driver.models.create(*project.keys, run))
    until(lambda: project.part(run).get("state") == "sent")
    cluster.rabbit.purge()
    since = time.monotonic()
    cluster.start(*TTPS)
    project.end(run)
    tell("Queue emptied by hand", since)
    assert project.part(run)["attempt"] == 1
    project.check(run)


@full
def test_everything_dies_at_once(cluster: Cluster, project: Project, tell: Tell) -> None:
    """As in a power cut."""
    runs = [project.run(f"power cut {number}") for number in range(3)]
    for run in runs:
        ok(project.driver.models.create(*project.keys, run))
    project.begun(runs[0])
    names = list(cluster.addresses)
    cluster.kill(*names)
    cluster.rabbit.kill()
    since = time.monotonic()
    cluster.rabbit.start()
    cluster.start(*names)
    for run in runs:
        project.end(run)
    tell("All killed at once; 3 jobs", since)
    project.check(*runs)


@pytest.mark.parametrize("back", [pytest.param(True, marks=full), False])
def test_a_worker_dies(cluster: Cluster, project: Project, tell: Tell, back: bool) -> None:
    """In the middle of a round: the training waits for it, or the other grid does it."""
    run = project.run(f"worker back {back}", grace=30 if back else 2)
    ok(project.driver.models.create(*project.keys, run))
    ttp = project.begun(run)
    worker = f"worker_1_n{ttp[-1]}"
    cluster.kill(worker)
    since = time.monotonic()
    try:
        if back:
            time.sleep(1)
            cluster.start(worker)
        project.end(run)
        tell(f"Worker killed, {'restarted' if back else 'gone for good'}", since)
    finally:
        if not back:
            cluster.start(worker)
    assert (project.part(run)["ttp"] == ttp) is back
    project.check(run)


@full
def test_a_grid_without_workers_beside_one_at_work(cluster: Cluster, project: Project, tell: Tell) -> None:
    """It is free at once each time, and yet the jobs wait for the other one."""
    long, short = project.run("keeps a grid busy", rounds=20000), project.run("waits for a grid")
    ok(project.driver.models.create(*project.keys, long))
    ttp = project.begun(long)
    gone = [f"{name}_n{3 - int(ttp[-1])}" for name in PARTICIPANTS]
    cluster.kill(*gone)
    try:
        ok(project.driver.models.create(*project.keys, short))
        until(lambda: project.part(short).get("attempt", 0) > 2, 120)
        since = time.monotonic()
        ok(project.driver.jobs.delete(project.job(long)["job_id"]))
        project.end(short)
    finally:
        cluster.start(*gone)
    tell("All workers of one grid gone, the other grid free at last", since)
    assert project.part(short)["ttp"] == ttp
    project.check(short)


def publish(cluster: Cluster, exchange: str, key: str, body: bytes) -> None:
    """Publish by hand, as an administrator."""
    channel = cluster.rabbit.channel()
    channel.basic_publish(exchange, key, body)
    channel.connection.close()


def test_messages_by_hand(cluster: Cluster, project: Project, tell: Tell) -> None:
    """What is none of ours, in every queue, while a job is under way."""
    run = project.run("by hand")
    holding = Holding(cluster, TTPS, "taken")
    ok(project.driver.models.create(*project.keys, run))
    holding.reached()
    since = time.monotonic()
    job, part = project.job(run), project.part(run)
    known = {"job_id": job["job_id"], "part": part["part"], "grid": 0, "ttp": "nobody", "process": "train"}
    wrong = {**known, "filters": [], "outputs": {}, "kind": "completed"}
    bodies = [b"", b"nonsense", b'{"kind": "job"}', json.dumps({**wrong, "grid": 10**30}).encode()]
    places = [("SynMQ_topic_logs", f"SynMQ_topic_{name}") for name in ("preprocess", "train", "evaluate")]
    places.append(("SynMQ_fanout_logs", "SynMQ_fanout_completed"))
    for place in places:
        for body in bodies:
            publish(cluster, *place, body)
    # Ours, but of no use: an attempt that there is not, a job that nobody knows.
    publish(cluster, *places[-1], json.dumps({**wrong, "attempt": 7}).encode())
    publish(cluster, *places[-1], json.dumps({**wrong, "job_id": "unknown"}).encode())
    for exchange in ("SynMQ_fanout_progress", "SynMQ_fanout_control"):
        for body in bodies:
            publish(cluster, exchange, "", body)
    holding.go()
    project.end(run)
    tell("16 malformed messages by hand", since)
    # Progress is kept by no second queue: what is wrong with it is forgotten.
    project.check(run, dead=16)
    cluster.replay()
    project.check(run, dead=16)
    cluster.rabbit.purge()


def test_a_result_that_cannot_be_read(cluster: Cluster, project: Project) -> None:
    """It ends its job with a reason that says so."""
    run = project.run("unreadable")
    holding = Holding(cluster, TTPS, "taken")
    ok(project.driver.models.create(*project.keys, run))
    name = holding.reached()
    job, part = project.job(run), project.part(run)
    answer = Completed(
        job_id=job["job_id"], part=part["part"], grid=0, ttp=name, process="train", filters=[], outputs={"paths": 1}
    )
    publish(cluster, "SynMQ_fanout_logs", "SynMQ_fanout_completed", encode(answer))
    reason = project.end(run, state="failed")["reason"]
    assert f"What {name} answered cannot be read (paths:" in reason
    holding.go()
    project.check()


@full
def test_a_job_longer_than_the_consumer_timeout(cluster: Cluster, project: Project, tell: Tell) -> None:
    """The broker hands it to the other grid, too; the first result counts."""
    run = project.run("longer")
    cluster.rabbit.policy(**{"consumer-timeout": 1000, "delivery-limit": 50})
    since = time.monotonic()
    try:
        ok(project.driver.models.create(*project.keys, run))
        project.end(run)
        tell("Consumer time-out of 1 s", since)
        begun = [entry for entry in cluster.events("training begins") if entry.get("run_id") == run]
        assert len(begun) >= 2
        project.check(run)
    finally:
        cluster.rabbit.policy()


def test_the_broker_refuses_the_director(cluster: Cluster, project: Project, tell: Tell) -> None:
    """It says so, keeps jobs, and does them when it is let in."""
    run = project.run("refused")
    secret = cluster.root / "director"
    right = secret.read_text()
    cluster.kill("sync_director")
    log = cluster.log_file("sync_director").read_text()
    secret.write_text("director:wrong\n")
    try:
        cluster.start("sync_director")

        def told() -> list[str]:
            lines = cluster.log_file("sync_director").read_text().removeprefix(log).splitlines()
            return [line for line in lines if "It refuses user director" in line and '"broker is away"' in line]

        # One for what it sends and one for what it hears.
        until(lambda: len(told()) == 2)
        reply = project.driver.models.create(*project.keys, run)
        assert (reply["data"], "refuses user director" in reply["message"]) == ([], True), reply
        time.sleep(2)
        assert len(told()) == 2 and cluster.processes["sync_director"].poll() is None
    finally:
        secret.write_text(right)
    cluster.kill("sync_director")
    since = time.monotonic()
    cluster.start("sync_director")
    project.end(run)
    tell("Director with a wrong password, then the right one", since)
    project.check(run)


@full
def test_a_cancellation_that_nobody_hears(cluster: Cluster, project: Project) -> None:
    """With the broker away the job ends in the records; the grid is told when the broker is back."""
    run = project.run("cancelled", rounds=20000)
    ok(project.driver.models.create(*project.keys, run))
    project.begun(run)
    cluster.rabbit.kill()
    job_id = project.job(run)["job_id"]
    assert project.driver.jobs.delete(job_id)["success"] == 1
    cluster.rabbit.start()
    project.end(run, state="cancelled")
    other = project.run("after the cancelled one")
    for name in (other, "run_1"):
        ok(project.driver.models.create(*project.keys, name))
    project.end(other)
    project.check(other)


def test_a_reset_while_jobs_are_under_way(cluster: Cluster, project: Project, tell: Tell) -> None:
    """Nobody needs what the broker and the grids still have: it ends, and nothing of it is recorded. The last test."""
    runs = [project.run(f"reset {number}", rounds=20000) for number in range(4)]
    for run in runs:
        ok(project.driver.models.create(*project.keys, run))
    project.begun(runs[0])
    cluster.kill("sync_director")
    command = [sys.executable, "-m", "synergos.director", "--id", "sync_director", "reset"]
    environment = {**os.environ, "SYNERGOS_ROOT": str(cluster.root / "sync_director")}
    subprocess.run(command, env=environment, check=True, timeout=60)
    since = time.monotonic()
    cluster.start("sync_director")
    keys = cluster.describe("after reset", rounds=5)
    cluster.align(keys)
    ok(cluster.driver.models.create(*keys))
    [_, job] = cluster.done(collab_id=keys[0])
    tell("Director reset with 4 jobs under way, until the next job is done", since)
    assert job["state"] == "done"
    project.check()
    assert [job["key"]["collab_id"] for job in ok(cluster.driver.jobs.read_all())] == [keys[0]] * 2
