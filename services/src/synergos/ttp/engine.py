"""Does the jobs of one grid: talks to the workers, runs the rounds, writes the models."""

from __future__ import annotations

import hashlib
import json
import pickle
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from synergos import __version__
from synergos.errors import Cancelled, GridFailure, Invalid, NotFound, SynergosError, Unreachable
from synergos.federation import alignment
from synergos.federation.line import Cancellation
from synergos.ids import check_id
from synergos.jobs import (
    AlignJob,
    Alignment,
    AlignResult,
    InferJob,
    InferResult,
    Layout,
    Party,
    RunJob,
    TrainJob,
    TrainResult,
    Watch,
)
from synergos.logs import bound, carry, get_logger
from synergos.ttp.freeing import Freeing
from synergos.ttp.workers import WorkerClient

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

    from synergos.federation.checkpoint import Snapshot
    from synergos.federation.grid import DirectGrid
    from synergos.federation.layers import Network
    from synergos.federation.parameters import Parameters
    from synergos.federation.strategy import History, Outcome

# torch and Flower take two seconds to load: the methods that need them import them, and `warm_up` does so in advance.
S = TypeVar("S")
T = TypeVar("T")
# Seconds that a worker may be away where no run says otherwise.
_GRACE = 60.0
# In the folder of a run: what it needs to go on after a kill, and the models that are kept on the way.
_UNFINISHED, _CHECKPOINTS = "unfinished", "checkpoints"


class GridEngine:
    """The engine of one grid, see `synergos.jobs.Engine`. One job at a time; `cancel` may come from another thread.

    Args:
        outputs: root of the output tree, `<outputs>/<collab>/<project>/<experiment>/<run>/`.
        request_timeout: seconds for one request to a worker, loading of data included.
        round_timeout: seconds that a worker may take for one round.
    """

    def __init__(self, outputs: Path, request_timeout: float = 600.0, round_timeout: float = 3600.0) -> None:
        self._outputs = outputs
        self._request_timeout = request_timeout
        self._round_timeout = round_timeout
        self._log = get_logger("ttp.engine")
        self._lock = threading.Lock()
        self._job: Cancellation | None = None
        self._freeing = Freeing()

    def warm_up(self) -> None:
        """Load what the first job would otherwise wait for."""
        from synergos.federation import warm_up

        warm_up()

    def free(self, job: RunJob) -> None:
        """Close the sessions of a combination at its workers, of those that are away as soon as they are back."""
        workers = [WorkerClient(party.node, self._request_timeout) for party in job.parties]
        _everywhere(lambda worker: self._freeing.free(worker, job), workers)

    def cancel(self, reason: str) -> None:
        """Make the job that is under way end with `Cancelled`. See `Engine.cancel`."""
        with self._lock:
            if self._job is not None:
                self._job.cancel(reason)

    def align(self, job: AlignJob) -> AlignResult:
        """Poll every party, then compute the alignment and fit the models. See `Engine.align`."""
        polls = self._poll(job, job.parties)
        layout = alignment.agree(polls)
        log = self._log.bind(collab_id=job.collab_id, project_id=job.project_id, code=200)
        log.info("agreed", datatype=layout.datatype, features=len(layout.X), labels=len(layout.y))
        result = AlignResult()
        if job.auto_align:
            result.alignments = {name: alignment.place(poll, layout) for name, poll in polls.items()}
        if job.auto_fix:
            for expt_id, model in job.experiments.items():
                fixed = alignment.fit_model(model, layout, job.action)
                if fixed != model:
                    log.info("model fitted to the data", expt_id=expt_id)
                    result.experiments[expt_id] = fixed
        return result

    def realign(self, job: AlignJob, participant_id: str) -> Alignment:
        """Return the new alignment of one participant within the layout that was trained. See `Engine.realign`."""
        party = next((p for p in job.parties if p.node.participant_id == participant_id), None)
        if party is None:
            raise NotFound(f"Participant {participant_id} is not registered with project {job.project_id}.")
        if party.alignment is None:
            raise Invalid(f"Participant {participant_id} has no alignment: align the project first.")
        return alignment.place(self._poll(job, [party])[participant_id], party.alignment.layout)

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        """Train one combination and write its files. See `Engine.train`."""
        import torch

        from synergos.federation import strategy, training
        from synergos.federation.aggregation import Aggregation
        from synergos.federation.checkpoint import Checkpoint, Snapshot
        from synergos.federation.layers import Network

        parameters, settings = self._check(job)
        torch.manual_seed(parameters.seed)
        network = Network(job.model)
        fresh = Snapshot(training.to_record(network))
        needed = parameters.min_participants or len(job.parties)
        trained = frozenset(name for name, _ in network.named_parameters())
        aggregation = Aggregation(parameters, len(job.parties), needed, trained, fresh.weights)

        folder = self._folder(job)
        checkpoint = Checkpoint(folder / _UNFINISHED, _fingerprint(job))
        log = self._log.bind(combination=_title(job), rounds=parameters.rounds, code=200)
        begin = time.perf_counter()

        def after_round(snapshot: Snapshot, history: History) -> None:
            progress = snapshot.rounds[-1]
            with _writing(folder):
                if progress.round < parameters.rounds:
                    checkpoint.save(snapshot)
                if parameters.checkpoints and progress.round % parameters.checkpoints == 0:
                    _keep(folder / _CHECKPOINTS / f"round_{progress.round}", network, snapshot, history)
            log.info("round", **progress.model_dump(exclude={"rounds", "participants"}))
            if watch is not None:
                watch(progress)

        with self._under_way(**job.ids) as cancellation:
            with _writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                snapshot = checkpoint.load(fresh)
                if not snapshot.rounds:
                    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
            if watch is not None:
                for progress in snapshot.rounds:
                    watch(progress)
            first = len(snapshot.rounds) + 1
            log.info("training begins", first_round=first, action=job.action, participants=_names(job.parties))
            try:
                with self._sessions(job, job.parties, needed, parameters.grace, cancellation) as grid:
                    outcome = strategy.run(
                        grid, snapshot, aggregation, parameters, settings, self._round_timeout, after_round
                    )
                cancellation.check()
                log.info(
                    "trained",
                    participants=_names(job.parties),
                    seconds=round(time.perf_counter() - begin, 3),
                    best_round=outcome.best_round,
                )
                with _writing(folder):
                    paths = _write(folder, network, outcome)
            except SynergosError:
                checkpoint.delete()
                raise
            # Anything else is a process that comes to its end: it goes on at the next start.
            checkpoint.delete()
        if parameters.checkpoints:
            paths["global"]["checkpoints"] = str(folder / _CHECKPOINTS)
        return TrainResult(paths=paths)

    def infer(self, job: InferJob) -> InferResult:
        """Run the global model at the named participants that have data for the meta. See `Engine.infer`."""
        import torch

        from synergos.federation import strategy, training
        from synergos.federation.layers import Network

        parameters, settings = self._check(job)
        named = [party for party in job.parties if party.node.participant_id in job.participants]
        parties = [party for party in named if getattr(party.tags, job.meta)]
        if not parties:
            raise Invalid(f"None of {', '.join(job.participants)} has {job.meta} tags in project {job.project_id}.")
        path = self._folder(job) / "global_model.pt"
        if not path.is_file():
            raise NotFound(f"Combination {_title(job)} has no trained model: train it first.")
        network = Network(job.model)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError):
            raise Invalid(f"The stored model of {_title(job)} does not fit its experiment: train it again.") from None
        weights = training.to_record(network)
        begin = time.perf_counter()
        with (
            self._under_way(**job.ids) as cancellation,
            self._sessions(job, parties, len(parties), parameters.grace, cancellation) as grid,
        ):
            answers = strategy.query(grid, weights, settings, job.meta, self._round_timeout)
            event = "validated" if job.meta == "evaluate" else "predicted"
            seconds = round(time.perf_counter() - begin, 3)
            self._log.info(event, code=200, meta=job.meta, participants=_names(parties), seconds=seconds)
        return InferResult(results={name: json.loads(answer) for name, answer in answers.items()})

    @contextmanager
    def _under_way(self, **ids: str) -> Iterator[Cancellation]:
        with self._lock:
            job = self._job = Cancellation()
        try:
            with bound(**ids):
                yield job
        finally:
            with self._lock:
                self._job = None

    def _poll(self, job: AlignJob, parties: Sequence[Party]) -> dict[str, alignment.Poll]:
        if not parties:
            raise Invalid(f"Project {job.project_id} has no participants: register them first.")
        for party in parties:
            if not party.tags.train:
                raise Invalid(f"Participant {party.node.participant_id} has no train tags in {job.project_id}.")

        def ask(party: Party) -> alignment.Poll:
            begin = time.perf_counter()
            with WorkerClient(party.node, self._request_timeout, _GRACE, cancellation) as worker:
                data = worker.poll(job.collab_id, job.project_id, job.action, party.tags.model_dump())
            seconds = round(time.perf_counter() - begin, 3)
            self._log.info("polled", code=200, participant_id=party.node.participant_id, seconds=seconds)
            return alignment.Poll.read(party.node.participant_id, data)

        with self._under_way(collab_id=job.collab_id, project_id=job.project_id) as cancellation:
            polls = _everywhere(ask, parties)
        return {party.node.participant_id: poll for party, poll in zip(parties, polls, strict=True)}

    def _check(self, job: RunJob) -> tuple[Parameters, dict[str, str]]:
        """Return run parameters and message settings; everything that can be wrong is, before a worker is asked."""
        from synergos.federation.layers import outline, probe
        from synergos.federation.parameters import Parameters

        if not job.parties:
            raise Invalid(f"Project {job.project_id} has no participants: register them first.")
        parameters = Parameters.read(job.parameters)
        settings = {
            "architecture": json.dumps(job.model),
            "parameters": json.dumps({key: value for key, value in job.parameters.items() if value is not None}),
        }
        if (parameters.min_participants or 0) > len(job.parties):
            raise Invalid(
                f"min_participants is {parameters.min_participants}, but project {job.project_id} has "
                f"{len(job.parties)} participants."
            )
        if job.auto_align:
            layout = _layout(job)
            network, width = probe(job.model, layout.row_shape)
            classes = max(2, len(layout.y))
            if job.action == "classify" and width != classes and not (classes == 2 and width == 1):
                raise Invalid(
                    f"The model has {width} outputs for {classes} classes: align with auto_fix, "
                    f"or give the last layer {'1 or 2' if classes == 2 else classes} outputs."
                )
            parameters.check(job.action, network.final, width)
        else:
            layout = Layout()
            outline(job.model)
        if parameters.class_weights is not None:
            settings["class_weights"] = json.dumps(_class_weights(parameters.class_weights, layout))
        return parameters, settings

    @contextmanager
    def _sessions(
        self, job: RunJob, parties: Sequence[Party], needed: int, grace: float, cancellation: Cancellation
    ) -> Iterator[DirectGrid]:
        """Initialise every party behind a fresh token; terminate all of them whatever happens, absent ones later.

        A party that never answers is absent from the grid, as long as `needed` ones are there.
        """
        from synergos.federation.grid import DirectGrid, Endpoint

        # Seeds and sums follow this order, so it must not depend on who registered first, nor on who is there.
        parties = sorted(parties, key=lambda party: party.node.participant_id)
        endpoints = [
            Endpoint(node.participant_id, f"http://{node.host}:{node.data_port}", secrets.token_urlsafe(32))
            for node in (party.node for party in parties)
        ]
        ended = threading.Event()
        self._freeing.forget(job)

        def renew(node_id: int) -> None:
            worker, party, endpoint = workers[node_id - 1], parties[node_id - 1], endpoints[node_id - 1]
            worker.initialise(job, party, endpoint.token)
            self._log.info("initialised", **job.ids, code=200, participant_id=endpoint.participant_id)
            if ended.is_set():
                self._freeing.free(worker, job)

        def first(node_id: int) -> Unreachable | None:
            try:
                renew(node_id)
            except Unreachable as error:
                return error
            return None

        with ExitStack() as stack:
            workers = [
                stack.enter_context(WorkerClient(party.node, self._request_timeout, grace, cancellation))
                for party in parties
            ]
            try:
                nodes = range(1, len(parties) + 1)
                outcomes = _everywhere(first, nodes)
                absent = {node: error for node, error in zip(nodes, outcomes, strict=True) if error}
                if len(parties) - len(absent) < needed:
                    raise Unreachable(" ".join(error.message for error in absent.values()))
                grid = DirectGrid(endpoints, grace=grace, renew=renew, absent=absent, cancellation=cancellation)
                try:
                    yield grid
                finally:
                    grid.close()
            finally:
                ended.set()
                _everywhere(lambda worker: self._freeing.free(worker, job), workers)

    def _folder(self, job: RunJob) -> Path:
        ids = (job.collab_id, job.project_id, job.expt_id, job.run_id)
        return self._outputs.joinpath(*(check_id(value) for value in ids))


def _title(job: RunJob) -> str:
    return f"{job.collab_id}/{job.project_id}/{job.expt_id}/{job.run_id}"


def _names(parties: Sequence[Party]) -> str:
    return ", ".join(sorted(party.node.participant_id for party in parties))


def _layout(job: RunJob) -> Layout:
    layouts = [party.alignment.layout for party in job.parties if party.alignment is not None]
    if len(layouts) < len(job.parties):
        raise Invalid(f"Project {job.project_id} is not aligned for all participants: align it first.")
    if any(layout != layouts[0] for layout in layouts):
        raise Invalid(f"The participants of {job.project_id} were aligned at different times: align again.")
    return layouts[0]


def _class_weights(given: str | list[float], layout: Layout) -> list[float]:
    """Return the weight of each aligned class: those given, or inversely to the classes' rows."""
    if isinstance(given, list):
        return given
    rows = [layout.counts.get(name, 0) for name in layout.y]
    if not rows or not all(rows):
        unknown = ", ".join(name for name, count in zip(layout.y, rows, strict=True) if not count)
        raise Invalid(
            f"class_weights 'balanced' needs the training rows of every class, and those of {unknown or 'all'} are not "
            "known: align the project (again), or give a list of weights."
        )
    return [sum(rows) / (len(rows) * count) for count in rows]


def _fingerprint(job: TrainJob) -> str:
    """Identify everything that decides what a run ends with."""
    content = job.model_dump(mode="json")
    content["parties"].sort(key=lambda party: party["node"]["participant_id"])
    return hashlib.sha256(json.dumps([__version__, content], sort_keys=True).encode()).hexdigest()


def _everywhere(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Return `call` of each item, all at once; several failures become one that names all of them."""
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(carry(call), item) for item in items]
    failures = [error for future in futures if (error := future.exception())]
    for error in failures:
        if isinstance(error, Cancelled):
            raise error
    if len(failures) > 1 and all(isinstance(error, SynergosError) for error in failures):
        kind = Unreachable if all(isinstance(error, Unreachable) for error in failures) else GridFailure
        raise kind(" ".join(str(error) for error in failures))
    return [future.result() for future in futures]


def _write(folder: Path, network: Network, outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Write the models and histories of a run and return where they are."""
    history = outcome.history
    numbers = {name: number for number, name in enumerate(history.local, start=1)}
    with _Files() as files:

        def add(name: str, weights: ArrayRecord, losses: dict[str, Any]) -> dict[str, str]:
            model, history = folder / f"{name}.pt", folder / f"{name.replace('_model', '_loss_history', 1)}.json"
            files.add_model(model, network, weights)
            files.add_text(history, json.dumps(losses))
            return {"path": str(model), "loss_history": str(history)}

        paths: dict[str, dict[str, Any]] = {
            "global": {
                "origin": "ttp",
                **add("global_model", outcome.weights, _losses(history)),
                "rounds": len(history.train),
                "best_round": outcome.best_round,
                "left_out": history.left_out,
            }
        }
        for name, weights in outcome.local.items():
            written = add(f"local_model_{name}", weights, _numbered(history.local[name]))
            paths[f"local_{numbers[name]}"] = {"origin": name, **written}
    return paths


def _keep(folder: Path, network: Network, snapshot: Snapshot, history: History) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _Files() as files:
        files.add_model(folder / "global_model.pt", network, snapshot.weights)
        files.add_text(folder / "global_loss_history.json", json.dumps(_losses(history)))


def _losses(history: History) -> dict[str, dict[str, float]]:
    return {"train": _numbered(history.train), "evaluate": _numbered(history.evaluate)}


def _numbered(values: dict[int, float]) -> dict[str, float]:
    return {str(index): value for index, value in values.items()}


class _Files:
    """Files that appear together or not at all: a reader, or a crash, never sees half of one."""

    def __init__(self) -> None:
        self._parts: list[tuple[Path, Path]] = []

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        for part, path in self._parts:
            if failed:
                part.unlink(missing_ok=True)
            else:
                part.replace(path)

    def add_model(self, path: Path, network: Network, weights: ArrayRecord) -> None:
        """Write `weights` as the state of `network`, which is overwritten."""
        import torch

        from synergos.federation import training

        training.load_record(network, weights)
        torch.save(network.state_dict(), self._part(path))

    def add_text(self, path: Path, text: str) -> None:
        """Write `text`."""
        self._part(path).write_text(text)

    def _part(self, path: Path) -> Path:
        part = path.with_name(f"{path.name}.part")
        self._parts.append((part, path))
        return part


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise GridFailure(f"The outputs of the run cannot be written to {folder}: {error}") from None
