"""Tasks of phases 2 and 3: what the grid computes, and the jobs in which it does."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from typing import Any

import httpx

from synergos.driver.base import DriverError, JobFailed, Reply, Task, ids_of, join, scope

PENDING = ("queued", "running")
# How the runs are named that a search makes.
TRIAL = "optim_run_"


class JobbedTask(Task):
    """What jobs on the grid bring. A TTP answers `create` when the job has ended, a Director at once: `wait` for it.

    Attributes:
        process: name of the jobs that bring it.
        always: ids that each of these jobs names.
    """

    process: str
    always: tuple[str, ...] = ("collab_id", "project_id")

    def _attempt(self, *args: Any, **kwargs: Any) -> Reply:
        given = inspect.signature(self.read).bind(*args, **kwargs).arguments
        ids = {name: value for name, value in given.items() if value is not None}
        jobs = self._jobs(ids)
        pending = [job for job in jobs if job["state"] in PENDING]
        if pending:
            return {"message": f"{len(pending)} of {len(jobs)} jobs ({self.process}) wait or run"}
        failed = [job for at, job in enumerate(jobs) if job["state"] != "done" and not _again(job, jobs[at + 1 :], ids)]
        if failed:
            raise JobFailed(failed)
        reply = super()._attempt(*args, **kwargs)
        if jobs and not reply.get("data"):
            raise DriverError(reply.get("status"), str(reply.get("message", "the jobs have left nothing to read")))
        return reply

    def _jobs(self, ids: Reply) -> list[Reply]:
        """Return the jobs that work on anything that `ids` name, oldest first; trials of a search only if they do."""
        query = {name: ids[name] for name in self.always if name in ids}
        found = _data(self._get("/ttp/jobs", process=self.process, **query))
        return [
            job
            for job in found
            if all(ids.get(name, value) == value for name, value in ids_of(job).items())
            and ("run_id" in ids or not job["key"].get("run_id", "").startswith(TRIAL))
        ]


class AlignmentTask(JobbedTask):
    """Agreement of a project's participants on features and classes."""

    process = "align"

    def create(
        self, collab_id: str, project_id: str, auto_align: bool = True, auto_fix: bool = True, **kwargs: Any
    ) -> Reply:
        """Align a project.

        Args:
            auto_fix: also fit the input and output sizes of the project's experiments.
            kwargs: ignored.
        """
        return self._start(_alignments(collab_id, project_id), {"auto_align": auto_align, "auto_fix": auto_fix})

    def read(self, collab_id: str, project_id: str) -> Reply:
        """Return the alignments of a project."""
        return self._get(_alignments(collab_id, project_id))


class ModelTask(JobbedTask):
    """Training. A scope without run_id trains all runs of an experiment, one without expt_id all of a project."""

    process = "train"

    def create(
        self,
        collab_id: str,
        project_id: str,
        expt_id: str | None = None,
        run_id: str | None = None,
        auto_align: bool = True,
        dockerised: bool = True,
        verbose: bool = True,
        log_msgs: bool = True,
        **kwargs: Any,
    ) -> Reply:
        """Train; further `kwargs` are ignored."""
        path = _models(collab_id, project_id, *scope(expt_id=expt_id, run_id=run_id))
        return self._start(path, _flags(auto_align, dockerised, verbose, log_msgs))

    def read(self, collab_id: str, project_id: str, expt_id: str | None = None, run_id: str | None = None) -> Reply:
        """Return trained models."""
        return self._get(_models(collab_id, project_id, *scope(expt_id=expt_id, run_id=run_id)))


class OptimizationTask(JobbedTask):
    """Search for hyperparameters; only a cluster does that.

    Its progress is that of its job: `driver.jobs.follow(process="optimize", collab_id=...)`, `progress["search"]`.
    """

    process = "optimize"

    def create(
        self,
        collab_id: str,
        project_id: str,
        expt_id: str,
        search_space: dict[str, Reply],
        metric: str,
        optimize_mode: str,
        trial_concurrency: int = 1,
        max_exec_duration: str = "1h",
        max_trial_num: int = 10,
        is_remote: bool = True,
        use_annotation: bool = True,
        auto_align: bool = True,
        dockerised: bool = True,
        verbose: bool = True,
        log_msgs: bool = True,
        **kwargs: Any,
    ) -> Reply:
        """Start a search.

        Args:
            search_space: hyperparameter → {"_type": name of a distribution, "_value": its arguments}.
            metric: statistic to optimize, with `optimize_mode` "max" or "min".
            trial_concurrency: trials at the same time.
            max_exec_duration: for all trials together, for example `1h 30m`.
            kwargs: further settings of the search (`scheduler`, `searcher`, …); `parameters`, those of every trial
                that are not searched for.
        """
        payload = {
            "search_space": search_space,
            "metric": metric,
            "optimize_mode": optimize_mode,
            "trial_concurrency": trial_concurrency,
            "max_exec_duration": max_exec_duration,
            "max_trial_num": max_trial_num,
            "is_remote": is_remote,
            "use_annotation": use_annotation,
            **_flags(auto_align, dockerised, verbose, log_msgs),
            **kwargs,
        }
        return self._start(f"{_models(collab_id, project_id, expt_id)}/optimizations/", payload)

    def read(self, collab_id: str, project_id: str, expt_id: str) -> Reply:
        """Return the validations of the trials so far; beside them `search` has the trials and the best of them."""
        return self._get(f"{_models(collab_id, project_id, expt_id)}/optimizations/")


class ValidationTask(JobbedTask):
    """Quality of trained models on the participants' `evaluate` data."""

    process = "validate"

    def create(
        self,
        collab_id: str,
        project_id: str,
        expt_id: str | None = None,
        run_id: str | None = None,
        participant_id: str | None = None,
        auto_align: bool = True,
        dockerised: bool = True,
        verbose: bool = False,
        log_msgs: bool = False,
        **kwargs: Any,
    ) -> Reply:
        """Validate; further `kwargs` are ignored."""
        ids = scope(expt_id=expt_id, run_id=run_id, participant_id=participant_id)
        path = _validations(collab_id, project_id, *ids)
        return self._start(path, _flags(auto_align, dockerised, verbose, log_msgs))

    def read(
        self,
        collab_id: str,
        project_id: str,
        expt_id: str | None = None,
        run_id: str | None = None,
        participant_id: str | None = None,
    ) -> Reply:
        """Return validations."""
        ids = scope(expt_id=expt_id, run_id=run_id, participant_id=participant_id)
        return self._get(_validations(collab_id, project_id, *ids))


class PredictionTask(JobbedTask):
    """Predictions for a participant's `predict` data, which stay with the participant."""

    process = "predict"
    always = ("collab_id",)

    def create(
        self,
        tags: dict[str, list[list[str]]],
        participant_id: str,
        collab_id: str,
        project_id: str | None = None,
        expt_id: str | None = None,
        run_id: str | None = None,
        auto_align: bool = True,
        dockerised: bool = True,
        verbose: bool = False,
        log_msgs: bool = False,
        **kwargs: Any,
    ) -> Reply:
        """Predict.

        Args:
            tags: project → paths of the data, see `TagTask.create`.
            kwargs: ignored.
        """
        ids = scope(project_id=project_id, expt_id=expt_id, run_id=run_id)
        path = _predictions(participant_id, collab_id, *ids)
        return self._start(path, {"tags": tags, **_flags(auto_align, dockerised, verbose, log_msgs)})

    def read(
        self,
        participant_id: str,
        collab_id: str,
        project_id: str | None = None,
        expt_id: str | None = None,
        run_id: str | None = None,
    ) -> Reply:
        """Return predictions."""
        ids = scope(project_id=project_id, expt_id=expt_id, run_id=run_id)
        return self._get(_predictions(participant_id, collab_id, *ids))


class JobTask(Task):
    """What the grid does and did: every alignment, training, validation and prediction is a job.

    A job has a `job_id`, its `process` (align, train, validate, predict, optimize), a `state` (queued, running, done,
    failed, cancelled), a `place` while it waits, a `reason` if it failed or was cancelled, and `progress`.
    """

    def read_all(self, **filters: str) -> Reply:
        """Return jobs, oldest first, without the rounds of their trainings.

        Args:
            filters: `collab_id`, `project_id`, `expt_id`, `run_id`: ids that the request named; `process`; `state`.
        """
        return self._get("/ttp/jobs", **filters)

    def read(self, job_id: str) -> Reply:
        """Return one job; `data.progress.rounds` lists the rounds of its trainings."""
        return self._get(_job(job_id))

    def delete(self, job_id: str) -> Reply:
        """Cancel a job that waits or runs; answered when it has ended. Its record stays."""
        return self._delete(_job(job_id))

    def _attempt(self, *args: Any, **kwargs: Any) -> Reply:
        reply = super()._attempt(*args, **kwargs)
        job = _data(reply)
        if job["state"] in PENDING:
            return {"message": f"job {job['job_id']} is {job['state']}"}
        if job["state"] != "done":
            raise JobFailed([job])
        return reply

    def follow(self, job_id: str | None = None, *, interval: float = 1.0, **filters: str) -> Iterator[Reply]:
        """Yield a job (`data` of `read`) whenever it changed, until it has ended.

        for job in driver.jobs.follow(project_id="my_project"):
            print(job["state"], len(job["progress"]["rounds"]), job.get("reason", ""))

        Args:
            job_id: the job; without it, the newest that `filters` match, see `read_all`.
            interval: seconds between two requests.

        Raises:
            DriverError: there is no such job.
        """
        if job_id is None:
            found = _data(self.read_all(**filters))
            if not found:
                raise DriverError(404, f"No job matches {filters}.")
            job_id = str(found[-1]["job_id"])
        last: Reply = {}
        while True:
            job: Reply = _data(self.read(job_id))
            if job != last:
                yield job
            if job["state"] not in PENDING:
                return
            last = job
            time.sleep(interval)


def _data(reply: Reply) -> Any:
    if reply.get("status") != httpx.codes.OK:
        raise DriverError(reply.get("status"), str(reply.get("message", reply)))
    return reply["data"]


def _again(job: Reply, newer: list[Reply], ids: Reply) -> bool:
    """Tell whether a newer job did again what this one was to do of what `ids` name."""
    wanted = {**ids, **ids_of(job)}
    return any(ids_of(other).items() <= wanted.items() for other in newer)


def _job(job_id: str) -> str:
    return join("ttp", "jobs", job_id)


def _flags(auto_align: bool, dockerised: bool, verbose: bool, log_msgs: bool) -> dict[str, bool]:
    return {"auto_align": auto_align, "dockerised": dockerised, "verbose": verbose, "log_msgs": log_msgs}


def _train(collab_id: str, project_id: str) -> str:
    return join("ttp", "train", "collaborations", collab_id, "projects", project_id)


def _alignments(collab_id: str, project_id: str) -> str:
    return f"{_train(collab_id, project_id)}/alignments"


def _models(collab_id: str, project_id: str, *ids: str) -> str:
    return _train(collab_id, project_id) + join("models", *ids)


def _validations(collab_id: str, project_id: str, *ids: str) -> str:
    return join("ttp", "evaluate", "collaborations", collab_id, "projects", project_id, "validations", *ids)


def _predictions(participant_id: str, collab_id: str, *ids: str) -> str:
    return join("ttp", "evaluate", "participants", participant_id, "collaborations", collab_id, "predictions", *ids)
