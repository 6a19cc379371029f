"""What all tasks of the Driver share: requests, errors, waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from synergos import trace

Reply = dict[str, Any]

CONNECT_TIMEOUT = 10.0
# How long `wait` bears with an orchestrator that does not answer.
AWAY_SECONDS = 60.0


class DriverError(Exception):
    """A request that failed, raised by tasks that were made with `raise_on_error`, and by `wait`.

    Attributes:
        status: HTTP status of the answer, None if it is none that failed.
        message: what the server said, or what else went wrong.
    """

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message if status is None else f"{status}: {message}")
        self.status = status
        self.message = message


class JobFailed(DriverError):
    """Jobs that were waited for and that failed or were cancelled.

    Attributes:
        jobs: their records, each with its `reason`.
    """

    def __init__(self, jobs: Sequence[Reply]) -> None:
        told = (f"{job['process']} of {'/'.join(ids_of(job).values())} {job['state']}: {job['reason']}" for job in jobs)
        super().__init__(None, " ".join(told))
        self.jobs = list(jobs)


class Task:
    """One resource of an orchestrator. Every method returns the answer's JSON object, whatever its status.

    Args:
        address: `http://host:port` of the TTP or Director.
        timeout: seconds that an answer may take, None for ever.
        job_timeout: the same for requests that are answered when a job on the grid has ended.
        raise_on_error: raise `DriverError` instead of returning an error.
        client: connections to use; a task without one opens its own.
        trace_id: 32 hexadecimal digits that the grid's logs carry for all requests of this task; a new id without it.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 60.0,
        job_timeout: float | None = None,
        raise_on_error: bool = False,
        client: httpx.Client | None = None,
        trace_id: str | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._job_timeout = job_timeout
        self._raise_on_error = raise_on_error
        # Servers of 2021 redirect (308) to the URL with a slash.
        self._client = client or httpx.Client(follow_redirects=True)
        self.trace_id = trace.check(trace_id) if trace_id else trace.new()

    def create(self, *args: Any, **kwargs: Any) -> Reply:
        """Create a record or start a job."""
        raise NotImplementedError(f"{type(self).__name__} cannot create.")

    def read_all(self, *args: Any, **kwargs: Any) -> Reply:
        """Return all records in a scope."""
        raise NotImplementedError(f"{type(self).__name__} cannot read all records.")

    def read(self, *args: Any, **kwargs: Any) -> Reply:
        """Return one record, or the results in a scope."""
        raise NotImplementedError(f"{type(self).__name__} cannot read.")

    def update(self, *args: Any, **kwargs: Any) -> Reply:
        """Change fields of a record."""
        raise NotImplementedError(f"{type(self).__name__} cannot update.")

    def delete(self, *args: Any, **kwargs: Any) -> Reply:
        """Delete a record with everything that belongs to it."""
        raise NotImplementedError(f"{type(self).__name__} cannot delete.")

    def wait(self, *args: Any, timeout: float | None = None, interval: float = 1.0, **kwargs: Any) -> Reply:
        """Call `read` with the other arguments until it returns data, and return that answer.

        What a grid computes is waited for until every job has ended that works on anything in that scope. An
        orchestrator that is away is asked again for a minute: jobs go on when it is back.

        Args:
            timeout: seconds after which to give up, None for never.
            interval: seconds between two attempts.

        Raises:
            TimeoutError: there was no data in time.
            JobFailed: the last job that was to bring some of it failed or was cancelled.
            DriverError: the server answered with an error other than "not there yet" (404), or the jobs have ended
                without leaving anything to read. Or `httpx.TransportError`: it does not answer.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        heard = time.monotonic()
        while True:
            try:
                reply = self._attempt(*args, **kwargs)
                heard = time.monotonic()
            except (DriverError, httpx.TransportError) as error:
                away = isinstance(error, httpx.TransportError) or isinstance(error.__cause__, httpx.TransportError)
                if not away or time.monotonic() - heard > AWAY_SECONDS:
                    raise
                reply = {"message": str(error)}
            if reply.get("data"):
                return reply
            if deadline is not None and time.monotonic() + interval > deadline:
                raise TimeoutError(f"No data after {timeout:g} s: {reply.get('message', 'the answer is empty')}")
            time.sleep(interval)

    def _attempt(self, *args: Any, **kwargs: Any) -> Reply:
        """Return what `read` returns, without data if there is nothing yet; raises `DriverError` for other errors."""
        try:
            reply = self.read(*args, **kwargs)
        except DriverError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return {"status": error.status, "message": error.message}
        if reply.get("status", httpx.codes.NOT_FOUND) not in (httpx.codes.OK, httpx.codes.NOT_FOUND):
            raise DriverError(reply["status"], str(reply.get("message", "")))
        return reply

    def _get(self, path: str, **query: str) -> Reply:
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None, self._timeout)

    def _post(self, path: str, payload: Mapping[str, Any]) -> Reply:
        return self._call("POST", path, payload, self._timeout)

    def _put(self, path: str, payload: Mapping[str, Any]) -> Reply:
        return self._call("PUT", path, payload, self._timeout)

    def _delete(self, path: str) -> Reply:
        return self._call("DELETE", path, None, self._timeout)

    def _start(self, path: str, payload: Mapping[str, Any]) -> Reply:
        return self._call("POST", path, payload, self._job_timeout)

    def _call(self, verb: str, path: str, payload: Mapping[str, Any] | None, seconds: float | None) -> Reply:
        timeout = httpx.Timeout(seconds, connect=CONNECT_TIMEOUT)
        headers = {trace.HEADER: trace.header(self.trace_id)}
        try:
            response = self._client.request(
                verb, f"{self.address}{path}", json=payload, timeout=timeout, headers=headers
            )
        except httpx.TransportError as error:
            # The library names the failure, but not the address.
            what = f"{verb} {self.address}{path}: {str(error) or type(error).__name__}"
            if self._raise_on_error:
                raise DriverError(None, what) from error
            raise type(error)(what, request=error.request) from error
        if self._raise_on_error and response.is_error:
            raise DriverError(response.status_code, _message(response))
        reply: Reply = response.json()
        return reply


def ids_of(job: Reply) -> dict[str, str]:
    """Return the ids that limit what a job works on."""
    return {name: value for name, value in job["key"].items() if name != "job_id"}


def join(*steps: str) -> str:
    """Return a path from names and ids, each one segment."""
    return "".join(f"/{quote(step, safe='')}" for step in steps)


def scope(**ids: str | None) -> list[str]:
    """Return the ids of a narrowing scope up to the first None; raises `ValueError` if one is given after it."""
    given = [value for value in ids.values() if value is not None]
    if list(ids.values())[: len(given)] != given:
        raise ValueError(f"Give {', '.join(ids)} from the left without a gap, not {ids}.")
    return given


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
