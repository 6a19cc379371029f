# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out a plan: in parallel where the dependency order allows, waiting for health by its own quick polling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._engine import CommandTimeout, Engine, Result
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._plan import (
    Plan,
    Request,
    Snapshot,
    Step,
)
from ansible_collections.synergos.grid.plugins.module_utils._state import State
from ansible_collections.synergos.grid.plugins.module_utils._status import component

POLL_SECONDS = 0.3
LOG_LINES = 20


class Converge:
    """Carries out one plan. Failures of one container do not stop those that do not depend on it."""

    def __init__(
        self, engine: Engine, state: State, request: Request, there: Snapshot, wait: float, parallel: int
    ) -> None:
        self.engine = engine
        self.state = state
        self.request = request
        self.there = there
        self.wait = wait
        self.parallel = parallel
        self.errors: list[str] = []
        self._slots = threading.Semaphore(parallel)

    def run(self, plan: Plan) -> None:
        replaced = [step for step in plan.containers if step.action == "recreate"]
        removals = [self._removal(step.name) for step in (*plan.removals, *replaced)]
        # All at once and first: containers may swap addresses and ports.
        in_parallel(self.parallel, [*removals, *map(self._detaching, plan.containers)], self.errors)
        if self.errors:
            return
        try:
            self._prepare(plan)
        except GridError as error:
            self.errors.append(str(error))
            return
        self._containers(plan.containers)

    def components(self, plan: Plan) -> list[dict[str, Any]]:
        """The records of all desired containers; those acted on are read anew."""
        touched = {step.name for step in plan.containers}
        records = []
        for container in self.request.containers:
            inspected = self.there.inspected.get(container.name)
            if container.name in touched:
                inspected = self.engine.inspect(container.name)
            record = component(container.name, inspected)
            if container.name in touched and container.health and record["status"] == "running":
                record["health"] = "healthy"  # it passed just now; Docker's own check comes later
            records.append(record)
        return records

    def _removal(self, name: str) -> Callable[[], None]:
        def remove() -> None:
            try:
                self.engine.remove(self.there.inspected[name]["Id"])
            except GridError as error:
                raise GridError(
                    f"container {name}: cannot be removed: {error}; remove it (docker rm -f {name}) and run again"
                ) from error

        return remove

    def _detaching(self, step: Step) -> Callable[[], None]:
        def detach() -> None:
            for network in step.connect if "connect" in step.repairs else ():
                if network not in self.there.inspected[step.name]["NetworkSettings"]["Networks"]:
                    continue
                try:
                    self.engine.disconnect(step.name, network)
                except GridError as error:
                    raise GridError(
                        f"container {step.name}: disconnect: {error}; correct this and run again"
                    ) from error

        return detach

    def _prepare(self, plan: Plan) -> None:
        """Networks, volumes, folders and files."""
        wanted = {network.name: network for network in self.request.networks}
        # Removals first: networks may swap subnets.
        for actions, act in (
            (("remove", "recreate"), self._remove_network),
            (("create", "recreate"), lambda name: self.engine.create_network(wanted[name], self.request.grid)),
        ):
            for step in (step for step in plan.networks if step.action in actions):
                try:
                    act(step.name)
                except GridError as error:
                    raise GridError(
                        f"network {step.name}: {step.action}: {error}; correct this and run again"
                    ) from error
        for name, owner in plan.volumes.items():
            try:
                self.engine.create_volume(name, self.request.grid, owner)
            except GridError as error:
                raise GridError(f"volume {name}: {error}") from error
        for path, owned_by in sorted(plan.folders.items()):  # a folder before those below it
            self.state.make_folder(path, owned_by)
        try:
            for path, file in plan.writes.items():
                self.state.write(path, file)
            for step in plan.file_steps:
                if step.action == "remove":
                    self.state.remove(step.name)
        except OSError as error:
            raise GridError(
                f"file {error.filename}: {error.strerror}; run with become, or correct the state folder"
            ) from error

    def _remove_network(self, name: str) -> None:
        """Remove a network from which this grid's own containers that stay have been detached."""
        for container, inspected in self.there.inspected.items():
            if name in (inspected["NetworkSettings"].get("Networks") or {}) and self.engine.inspect(inspected["Id"]):
                self.engine.disconnect(container, name)
        self.engine.remove_network(name)

    def _containers(self, steps: Sequence[Step]) -> None:
        if not steps:
            return
        done: dict[str, Future[bool]] = {}
        # One thread each, so that waiting for health never keeps others from starting; the semaphore bounds the work.
        with ThreadPoolExecutor(len(steps)) as pool:
            for step in steps:
                assert step.container
                before = {name: done[name] for name in step.container.depends_on if name in done}
                done[step.name] = pool.submit(self._container, step, before)

    def _container(self, step: Step, before: Mapping[str, Future[bool]]) -> bool:
        failed = [name for name, future in before.items() if not future.result()]
        if failed:
            if step.repairs:
                self.errors.append(f"container {step.name}: not started, because it depends on {', '.join(failed)}")
            return False
        try:
            with self._slots:
                self._repair(step)
            if step.wait:
                self._wait(step)
        except GridError as error:
            self.errors.append(f"container {step.name}: {error}")
            return False
        return True

    def _repair(self, step: Step) -> None:
        assert step.container
        name, repairs = step.name, step.repairs
        doing = step.action
        try:
            if repairs & {"create", "recreate"}:
                doing = "create"
                self._create(step)
                doing = "start"
                self.engine.start(name)
                return
            if "unpause" in repairs:
                self.engine.unpause(name)
            if "update" in repairs:
                self._update(step)
            for network in step.disconnect:
                self.engine.disconnect(name, network)
            for network in step.connect:
                self.engine.connect(name, network, _endpoints(step)[network])
            if "restart" in repairs and "start" not in repairs:
                self.engine.stop(name, step.container.stop_timeout)
                self.engine.start(name)
            if "start" in repairs:
                self.engine.start(name)
        except GridError as error:
            raise GridError(f"{doing}: {error}; correct this and run again") from error

    def _create(self, step: Step) -> None:
        # Engines before API 1.44 take one network only when they make a container.
        first, *further = _endpoints(step).items()
        self.engine.create(step.name, {**step.body, "NetworkingConfig": {"EndpointsConfig": dict([first])}})
        for network, endpoint in further:
            self.engine.connect(step.name, network, endpoint)

    def _update(self, step: Step) -> None:
        host = step.body["HostConfig"]
        limits = {key: host[key] for key in ("NanoCpus", "PidsLimit", "RestartPolicy") if host[key]}
        if host["Memory"]:
            # Docker refuses a memory limit above the sum of memory and swap; double the memory is its own default.
            limits |= {"Memory": host["Memory"], "MemorySwap": 2 * host["Memory"]}
        self.engine.update(step.name, limits)

    def _wait(self, step: Step) -> None:
        """Poll until the container is healthy; GridError as soon as it is clear that it will not be."""
        assert step.container
        end = time.monotonic() + self.wait
        first = self.engine.inspect(step.name)
        check = step.container.health
        if check is None:
            time.sleep(POLL_SECONDS)  # a program that cannot start ends at once
            self._still_up(step.name, first)
            return
        last: Result | None = None
        while True:
            began = time.monotonic()
            try:
                with self._slots:
                    last = self.engine.run(step.name, check.test, check.timeout)
            except CommandTimeout as error:
                last = Result(124, "", str(error))
            except GridError as error:  # the container ended in between
                last = Result(126, "", str(error))
            if last.rc == 0:
                return
            self._still_up(step.name, first)
            if time.monotonic() > end:
                raise GridError(
                    f"is not healthy after {self.wait:g} s: the check {' '.join(check.test)} "
                    f"ends with {last.rc}{': ' + last.output if last.output else ''}\n{self._logs(step.name)}"
                )
            # A check is a process in the container; a slow one must not eat the core that the start needs.
            time.sleep(max(POLL_SECONDS, 2 * (time.monotonic() - began)))

    def _still_up(self, name: str, first: dict[str, Any] | None) -> None:
        now = self.engine.inspect(name)
        if now is None or first is None:
            raise GridError("was removed by someone else while it started; run again")
        state = now["State"]
        if state["Status"] == "running" and state["StartedAt"] == first["State"]["StartedAt"]:
            return
        error = f" ({state['Error']})" if state.get("Error") else ""
        killed = ", killed because it used more memory than its limit" if state.get("OOMKilled") else ""
        raise GridError(
            f"ended with exit code {state['ExitCode']}{killed}{error} instead of running\n{self._logs(name)}"
        )

    def _logs(self, name: str) -> str:
        try:
            lines = self.engine.log_tail(name, LOG_LINES).strip()
        except GridError as error:
            lines = f"(not readable: {error})"
        shown = "\n".join(f"  | {line}" for line in (lines or "(nothing)").splitlines())
        return f"its last log lines:\n{shown}\nnext: see docker logs {name}, correct the cause and run again"


def _endpoints(step: Step) -> dict[str, dict[str, Any]]:
    endpoints: dict[str, dict[str, Any]] = step.body["NetworkingConfig"]["EndpointsConfig"]
    return endpoints


def in_parallel(limit: int, jobs: Sequence[Callable[[], None]], errors: list[str]) -> None:
    """Run jobs on threads; messages of those that fail go to `errors`."""
    if not jobs:
        return
    with ThreadPoolExecutor(limit) as pool:
        for future in [pool.submit(job) for job in jobs]:
            try:
                future.result()
            except GridError as error:
                errors.append(str(error))
