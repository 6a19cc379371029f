"""Tasks of phases 2 and 3: what the grid computes, and the jobs in which it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from synergos.driver.base import DriverError, Reply, Task, join, scope


class AlignmentTask(Task):
    """Agreement of a project's participants on features and classes."""

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


class ModelTask(Task):
    """Training. A scope without run_id trains all runs of an experiment, one without expt_id all of a project."""

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


class OptimizationTask(Task):
    """Search for hyperparameters; only a cluster does that."""

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
            max_exec_duration: for example `1h 30m`.
            kwargs: further settings of the search (`backend`, `scheduler`, `searcher`, …).
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
        """Return the results of a search so far."""
        return self._get(f"{_models(collab_id, project_id, expt_id)}/optimizations/")


class ValidationTask(Task):
    """Quality of trained models on the participants' `evaluate` data."""

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


class PredictionTask(Task):
    """Predictions for a participant's `predict` data, which stay with the participant."""

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

    A job has a `job_id`, its `process` (align, train, validate, predict), a `state` (queued, running, done, failed,
    cancelled), a `place` while it waits, a `reason` if it failed or was cancelled, and `progress`.
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
            if job["state"] not in ("queued", "running"):
                return
            last = job
            time.sleep(interval)


def _data(reply: Reply) -> Any:
    if reply.get("status") != httpx.codes.OK:
        raise DriverError(reply.get("status"), str(reply.get("message", reply)))
    return reply["data"]


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
