"""Does the jobs of one grid: talks to the workers, runs the rounds, writes the models."""

from __future__ import annotations

import json
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from synergos.errors import GridFailure, Invalid, NotFound, SynergosError
from synergos.federation import alignment
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
)
from synergos.logs import get_logger
from synergos.ttp.workers import WorkerClient

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

    from synergos.federation.grid import DirectGrid
    from synergos.federation.layers import Network
    from synergos.federation.parameters import Parameters
    from synergos.federation.strategy import History, Outcome

# torch and Flower take two seconds to load: the methods that need them import them, and `warm_up` does so in advance.
S = TypeVar("S")
T = TypeVar("T")


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
        self._grid: DirectGrid | None = None

    def warm_up(self) -> None:
        """Load what the first job would otherwise wait for."""
        from synergos.federation import warm_up

        warm_up()

    def cancel(self, reason: str) -> None:
        """Make the training or inference that is under way end with an error; nothing happens if none is."""
        with self._lock:
            if self._grid is not None:
                self._grid.cancel(reason)

    def align(self, job: AlignJob) -> AlignResult:
        """Poll every party, then compute the alignment and fit the models. See `Engine.align`."""
        polls = self._poll(job, job.parties)
        layout = alignment.agree(polls)
        result = AlignResult()
        if job.auto_align:
            result.alignments = {name: alignment.place(poll, layout) for name, poll in polls.items()}
        if job.auto_fix:
            for expt_id, model in job.experiments.items():
                fixed = alignment.fit_model(model, layout, job.action)
                if fixed != model:
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

    def train(self, job: TrainJob) -> TrainResult:
        """Train one combination and write its files. See `Engine.train`."""
        import torch

        from synergos.federation import strategy, training
        from synergos.federation.layers import Network

        parameters, settings = self._check(job)
        folder = self._folder(job)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(parameters.seed)
        network = Network(job.model)
        log = self._log.bind(combination=_title(job), rounds=parameters.rounds)
        begin = time.perf_counter()

        def progress(server_round: int, history: History) -> None:
            log.info(
                "round",
                round=server_round,
                train_loss=history.train[-1],
                # Of the weights that this round started from: they are evaluated where they are trained on.
                previous_evaluate_loss=history.evaluate[-1] if history.evaluate else None,
                seconds=round(time.perf_counter() - begin, 3),
            )

        with self._sessions(job, job.parties) as grid:
            outcome = strategy.run(
                grid, training.to_record(network), parameters, settings, progress, self._round_timeout
            )
        log.info("trained", seconds=round(time.perf_counter() - begin, 3))
        with _writing(folder):
            return TrainResult(paths=_write(folder, network, outcome))

    def infer(self, job: InferJob) -> InferResult:
        """Run the global model at the named participants that have data for the meta. See `Engine.infer`."""
        import torch

        from synergos.federation import strategy, training
        from synergos.federation.layers import Network

        _, settings = self._check(job)
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
        with self._sessions(job, parties) as grid:
            answers = strategy.query(grid, training.to_record(network), settings, job.meta, self._round_timeout)
        return InferResult(results={name: json.loads(answer) for name, answer in answers.items()})

    def _poll(self, job: AlignJob, parties: Sequence[Party]) -> dict[str, alignment.Poll]:
        if not parties:
            raise Invalid(f"Project {job.project_id} has no participants: register them first.")
        for party in parties:
            if not party.tags.train:
                raise Invalid(f"Participant {party.node.participant_id} has no train tags in {job.project_id}.")

        def ask(party: Party) -> alignment.Poll:
            with WorkerClient(party.node, self._request_timeout) as worker:
                data = worker.poll(job.collab_id, job.project_id, job.action, party.tags.model_dump())
            return alignment.Poll.read(party.node.participant_id, data)

        polls = _everywhere(ask, parties)
        return {party.node.participant_id: poll for party, poll in zip(parties, polls, strict=True)}

    def _check(self, job: RunJob) -> tuple[Parameters, dict[str, str]]:
        """Return run parameters and message settings; everything that can be wrong is, before a worker is asked."""
        from synergos.federation.layers import outline, probe
        from synergos.federation.parameters import Parameters

        if not job.parties:
            raise Invalid(f"Project {job.project_id} has no participants: register them first.")
        parameters = Parameters.read(job.parameters)
        if job.auto_align:
            layout = _layout(job)
            network, width = probe(job.model, (len(layout.X),))
            classes = max(2, len(layout.y))
            if job.action == "classify" and width != classes and not (classes == 2 and width == 1):
                raise Invalid(
                    f"The model has {width} outputs for {classes} classes: align with auto_fix, "
                    f"or give the last layer {'1 or 2' if classes == 2 else classes} outputs."
                )
            parameters.check(job.action, network.final, width)
        else:
            outline(job.model)
        return parameters, {
            "architecture": json.dumps(job.model),
            "parameters": json.dumps({key: value for key, value in job.parameters.items() if value is not None}),
        }

    @contextmanager
    def _sessions(self, job: RunJob, parties: Sequence[Party]) -> Iterator[DirectGrid]:
        """Initialise every party behind a fresh token; terminate all of them whatever happens."""
        from synergos.federation.grid import DirectGrid, Endpoint

        # Seeds and sums follow this order, so it must not depend on who registered first.
        parties = sorted(parties, key=lambda party: party.node.participant_id)
        endpoints = [
            Endpoint(node.participant_id, f"http://{node.host}:{node.data_port}", secrets.token_urlsafe(32))
            for node in (party.node for party in parties)
        ]
        with ExitStack() as stack:
            workers = [stack.enter_context(WorkerClient(party.node, self._request_timeout)) for party in parties]
            grid = DirectGrid(endpoints)
            with self._lock:
                self._grid = grid
            try:
                _everywhere(
                    lambda seat: seat[0].initialise(job, seat[1], seat[2].token),
                    list(zip(workers, parties, endpoints, strict=True)),
                )
                yield grid
            finally:
                with self._lock:
                    self._grid = None
                _everywhere(lambda worker: worker.terminate(job), workers)
                grid.close()

    def _folder(self, job: RunJob) -> Path:
        ids = (job.collab_id, job.project_id, job.expt_id, job.run_id)
        return self._outputs.joinpath(*(check_id(value) for value in ids))


def _title(job: RunJob) -> str:
    return f"{job.collab_id}/{job.project_id}/{job.expt_id}/{job.run_id}"


def _layout(job: RunJob) -> Layout:
    layouts = [party.alignment.layout for party in job.parties if party.alignment is not None]
    if len(layouts) < len(job.parties):
        raise Invalid(f"Project {job.project_id} is not aligned for all participants: align it first.")
    if any(layout != layouts[0] for layout in layouts):
        raise Invalid(f"The participants of {job.project_id} were aligned at different times: align again.")
    return layouts[0]


def _everywhere(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Return `call` of each item, all at once; several failures become one that names all of them."""
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(call, item) for item in items]
    failures = [error for future in futures if (error := future.exception())]
    if len(failures) > 1 and all(isinstance(error, SynergosError) for error in failures):
        raise GridFailure(" ".join(str(error) for error in failures))
    return [future.result() for future in futures]


def _write(folder: Path, network: Network, outcome: Outcome) -> dict[str, dict[str, str]]:
    import torch

    from synergos.federation import training

    def save(name: str, weights: ArrayRecord, losses: dict[str, Any]) -> dict[str, str]:
        training.load_record(network, weights)
        model, history = folder / f"{name}.pt", folder / f"{name.replace('_model', '_loss_history', 1)}.json"
        _replace(model, lambda path: torch.save(network.state_dict(), path))
        _replace(history, lambda path: path.write_text(json.dumps(losses)))
        return {"path": str(model), "loss_history": str(history)}

    history = outcome.history
    losses = {"train": _numbered(history.train), "evaluate": _numbered(history.evaluate)}
    paths = {"global": {"origin": "ttp", **save("global_model", outcome.weights, losses)}}
    for number, (participant_id, weights) in enumerate(outcome.local.items(), start=1):
        files = save(f"local_model_{participant_id}", weights, _numbered(history.local[participant_id]))
        paths[f"local_{number}"] = {"origin": participant_id, **files}
    return paths


def _numbered(values: Sequence[float]) -> dict[str, float]:
    return {str(index): value for index, value in enumerate(values)}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    # A reader, or a crash, sees the old file or the new one, never half of it.
    part = path.with_name(f"{path.name}.part")
    write(part)
    part.replace(path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise GridFailure(f"The outputs of the run cannot be written to {folder}: {error}") from None
