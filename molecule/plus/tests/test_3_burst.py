"""Ten thousand lines at once from every service, all at the same time: none is lost."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
from conftest import CONTAINERS, FULL, SERVICES, Graylog, eventually

LINES = 10_000
# Runs in the service's container, with its own logging and its way to the log server.
BURST = """
import sys
from synergos import cli, logs
component, node, port, mark, lines = sys.argv[1:]
logs.configure(cli.parse(cli.parser(component), ["--id", node, "-l", "graylog", "{logger}", port]), component)
log = logs.get_logger(__name__)
for number in range(int(lines)):
    log.info("burst", mark=mark, number=number)
""".format(logger=CONTAINERS["synp_logger"])


@pytest.mark.parametrize("burst_number", range(5 if FULL else 1))
def test_no_line_of_a_burst_is_lost(client: docker.DockerClient, graylog: Graylog, burst_number: int) -> None:
    mark = uuid.uuid4().hex

    def burst(name: str) -> None:
        component, port = ("ttp", "9300") if name == "synp_ttp" else ("worker", "9400")
        argv = ["python", "-c", BURST, component, name, port, mark, str(LINES)]
        done = client.containers.get(name).exec_run(argv)
        assert done.exit_code == 0, done.output[-2000:]

    with ThreadPoolExecutor() as pool:
        list(pool.map(burst, SERVICES))
    # A line may come twice, but that is told by its id.
    eventually(lambda: graylog.count(f'mark:"{mark}"') >= LINES * len(SERVICES), timeout=120)
    for name in SERVICES:
        numbers = graylog.values(f'mark:"{mark}" AND node:"{name}"', "number")
        assert {int(number) for number in numbers} == set(range(LINES))
