"""Which job of the Director is next, and what is said against one at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from synergos import artefacts
from synergos.artefacts import Keys, Store
from synergos.director.desk import Desk
from synergos.director.engine import RemoteEngine
from synergos.errors import Invalid, NotFound
from synergos.jobs import Engine
from synergos.orchestrator import assemble, schemas
from synergos.orchestrator.database import Body, Database, Records
from synergos.orchestrator.kinds import PROJECT, REGISTRATION, RUN
from synergos.orchestrator.ledger import Job, Ledger, Process
from synergos.queue import Address, Publisher, ResultConsumer

_QUEUES: Mapping[Process, str] = {
    "align": "preprocess",
    "train": "train",
    "validate": "evaluate",
    "predict": "evaluate",
}
_Scope = tuple[str, ...]


class Cluster:
    """The grids that take jobs from a broker. See `synergos.orchestrator.grids.Grids`.

    Args:
        address: the broker.
        name: of the Director.
        store: where the files of trained models are kept.
        port: where the grids get these.
    """

    owner = "Director"
    here = False

    def __init__(self, database: Database, address: Address, name: str, store: Store, keys: Keys, port: int) -> None:
        self._database = database
        self._address, self._store, self._keys, self._port = address, store, keys, port
        self.publisher = Publisher(address, name)
        self.desk = Desk(database, self.publisher)
        self._results = ResultConsumer(address, name, self.desk.take)

    @property
    def parallel(self) -> int:
        """As many as may be in flight."""
        return self.desk.window

    def start(self, reopen: Callable[[str], None]) -> None:
        """Connect to the broker. See `Grids.start`."""
        self.desk.start(reopen)
        self.publisher.start()
        self._results.start()

    def close(self) -> None:
        """Take no answers any more."""
        self.desk.close()
        self._results.close()
        self.publisher.close()

    def engine(self, job: Job) -> Engine:
        """Return what gives the parts of a job to the broker."""
        url = artefacts.base(self._address.host, self._port)
        return RemoteEngine(job, self.desk, self._database, self._store, self._keys, url)

    @property
    def notice(self) -> str | None:
        """Tell that the broker is away."""
        if self.publisher.connected:
            return None
        reason = f" ({self.publisher.trouble.rstrip('.')})" if self.publisher.trouble else ""
        return f"The broker at {self._address} is away{reason}: the job is stored, and waits until the broker is back."

    def note(self, jobs: Sequence[Job]) -> Mapping[str, Body]:
        """Return which grid has which part."""
        return self.desk.note({job.job_id for job in jobs})

    def check(self, records: Records, process: Process, ids: Mapping[str, str], order: Body) -> None:
        """Refuse what could only fail. See `Grids.check`.

        Raises:
            Invalid, NotFound: what is missing.
        """
        if process == "predict":
            for project_id in schemas.PredictionOrder.model_validate(order).tags:
                records.get(REGISTRATION, {**ids, "project_id": project_id})
                self._check(records, process, {**ids, "project_id": project_id}, order)
        else:
            self._check(records, process, ids, order)

    def _check(self, records: Records, process: Process, ids: Mapping[str, str], order: Body) -> None:
        project = {name: ids[name] for name in PROJECT.key}
        assemble.action(records, project)
        parties = assemble.parties(records, project)
        # Neither of these needs a run.
        if process not in ("align", "optimize"):
            combinations = assemble.combinations(records, project, ids.get("expt_id"), ids.get("run_id"))
        if process != "align" and order["auto_align"]:
            try:
                assemble.aligned(parties, project)
            except Invalid:
                if self._pending(records, "align", ids):
                    raise Invalid(
                        f"The alignment of {PROJECT.label(project)} has not finished: wait until its alignments can be "
                        "read (Driver: alignments.wait), then send this again."
                    ) from None
                raise
        if process in ("validate", "predict"):
            try:
                assemble.trained(records, combinations)
            except NotFound:
                if not self._pending(records, "train", ids):
                    raise

    def _pending(self, records: Records, process: Process, ids: Mapping[str, str]) -> bool:
        """Tell whether a job waits or runs that may bring what is missing."""
        return any(job.process == process and _overlap(job.ids, ids) for job in Ledger(records).pending())

    def choose(self, waiting: Sequence[Job], running: Sequence[Job]) -> Job | None:
        """Return the oldest job of the collaboration that has the fewest under way. See `Grids.choose`.

        As many jobs of each queue are begun as may be in flight there. A job waits for older ones that make what it
        needs, or need what it makes. A search is in no queue: only the jobs of its trials are.
        """
        if search := next((job for job in waiting if job.process == "optimize"), None):
            return search
        running = [job for job in running if job.process != "optimize"]
        busy = Counter(_QUEUES[job.process] for job in running)
        for queue in ("preprocess", "train", "evaluate"):
            if busy[queue] >= self.desk.window:
                continue
            under_way = Counter(job.ids["collab_id"] for job in running if _QUEUES[job.process] == queue)
            ranks = {job.job_id: under_way[job.ids["collab_id"]] for job in waiting if _QUEUES[job.process] == queue}
            if not ranks:
                continue
            chosen, claims = None, _Claims(running)
            for job in waiting:
                better = job.job_id in ranks and (chosen is None or ranks[job.job_id] < ranks[chosen.job_id])
                if better and not claims.meet(job):
                    chosen = job
                    if ranks[job.job_id] == min(ranks.values()):
                        break
                claims.add(job)
            if chosen is not None:
                return chosen
        return None


class _Claims:
    """What jobs make and read, to be looked up: to compare each of many jobs with all others takes too long."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._at: defaultdict[str, set[_Scope]] = defaultdict(set)
        self._through: defaultdict[str, set[_Scope]] = defaultdict(set)
        for job in jobs:
            self.add(job)

    def add(self, job: Job) -> None:
        """Take in a job that goes before others."""
        scopes = _scopes(job)
        for kind in _kinds(job)[0]:
            self._at[kind].add(scopes[-1])
            self._through[kind].update(scopes)

    def meet(self, job: Job) -> bool:
        """Tell whether a job needs what one of these makes, or makes what one of these needs."""
        scopes = _scopes(job)
        return any(
            scopes[-1] in self._through[kind] or not self._at[kind].isdisjoint(scopes) for kind in _kinds(job)[1]
        )


def _kinds(job: Job) -> tuple[Sequence[str], Sequence[str]]:
    """Return what a job claims, and the claims of others that it must not meet."""
    if job.process not in ("validate", "predict"):
        return ("makes",), ("makes", "reads")
    if job.process == "validate":
        return ("reads",), ("makes",)
    # Its participant's data to predict is exchanged.
    predicts = f"predicts {job.ids.get('participant_id')}"
    return ("reads", predicts), ("makes", predicts)


def _scopes(job: Job) -> list[_Scope]:
    """Return everything that a job's scope lies in, from the collaboration to the scope itself."""
    path = tuple(job.ids[name] for name in RUN.key if name in job.ids)
    return [path[:length] for length in range(1, len(path) + 1)]


def _overlap(ids: Mapping[str, str], others: Mapping[str, str]) -> bool:
    return all(name not in ids or name not in others or ids[name] == others[name] for name in RUN.key)
