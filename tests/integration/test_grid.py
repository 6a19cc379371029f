"""The grid modules against this machine's Docker: own labels, own names, own subnets, all removed afterwards."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

COLLECTIONS = Path(__file__).parents[2] / "collections"
GRID = f"gridtest{os.getpid()}"
FOREIGN = {"org.synergos.test": GRID}
IMAGE = f"{GRID}:one"
OTHER_IMAGE = f"{GRID}:two"
SUBNET = "10.213.41.0/24"

Run = Callable[..., dict[str, Any]]


def run_module(module: str, check: bool = False, /, **args: Any) -> dict[str, Any]:
    """Run a module in a process of its own, as Ansible does, and return its result."""
    args |= {"_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}
    finished = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.synergos.grid.plugins.modules.{module}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": args}),
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in finished.stderr + finished.stdout, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    print(module, result.get("msg", ""), result.get("actions"))  # shown if the test fails
    return result


def rootfs(marker: str) -> bytes:
    """A file system with bash and a few commands of this machine: an image without a registry."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        added = set()
        for command in ("bash", "sleep", "cat", "stat", "mkdir", "true", "timeout"):
            found = shutil.which(command)
            assert found
            needed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
            for path in [found, *(word for word in needed.split() if word.startswith("/"))]:
                inside = f"usr/bin/{command}" if path == found else path.lstrip("/")
                if inside not in added:
                    archive.add(Path(path).resolve(), inside)
                    added.add(inside)
        data = marker.encode()
        info = tarfile.TarInfo("etc/marker")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(version="auto", **docker.utils.kwargs_from_env())
    for reference in (IMAGE, OTHER_IMAGE):
        repository, _colon, tag = reference.partition(":")
        # PATH and a default command, so that what a container inherits from its image is compared too.
        changes = ["ENV PATH=/usr/bin", "ENV KIND=tiny", 'CMD ["sleep","infinity"]']
        client.import_image_from_data(rootfs(tag), repository=repository, tag=tag, changes=changes)
    yield client
    for container in client.containers(all=True, filters={"label": f"org.synergos.test={GRID}"}):
        client.remove_container(container["Id"], force=True, v=True)
    for network in client.networks(filters={"label": f"org.synergos.test={GRID}"}):
        client.remove_network(network["Id"])
    for volume in client.volumes(filters={"label": f"org.synergos.test={GRID}"})["Volumes"] or []:
        client.remove_volume(volume["Name"])
    for reference in (IMAGE, OTHER_IMAGE):
        client.remove_image(reference, force=True)
    client.close()


class Grid:
    """A grid of this test: its arguments, and what it looks like in Docker."""

    def __init__(self, api: docker.APIClient, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.args: dict[str, Any] = {
            "name": GRID,
            "network": {"name": GRID, "subnet": SUBNET},
            "images": {"tiny": IMAGE},
            "state_dir": str(folder / "state"),
            "complete": True,
            "wait_timeout": 20,
            "containers": [self.definition("a", 2), self.definition("b", 3, depends_on=[self.name("a")])],
        }

    @staticmethod
    def name(letter: str) -> str:
        return f"{GRID}_{letter}"

    def definition(self, letter: str, address: int, **more: Any) -> dict[str, Any]:
        return {
            "name": self.name(letter),
            "component": letter,
            "image": "tiny",
            "address": f"10.213.41.{address}",
            "health": {"test": ["true"]},
            "stop_signal": "SIGKILL",  # the first process of a container does not heed SIGTERM by default
            "resources": {"memory": "32m", "cpus": 0.5, "pids": 20},
            **more,
        }

    def present(self, check: bool = False, **more: Any) -> dict[str, Any]:
        return run_module("grid", check, **{**self.args, **more})

    def absent(self, check: bool = False, **more: Any) -> dict[str, Any]:
        return run_module("grid", check, name=GRID, state="absent", state_dir=self.args["state_dir"], **more)

    def inspect(self, letter: str) -> dict[str, Any]:
        return self.api.inspect_container(self.name(letter))  # type: ignore[no-any-return]

    def started(self) -> dict[str, str]:
        """When each container of the grid was started, by name."""
        own = self.api.containers(all=True, filters={"label": f"org.synergos.grid={GRID}"})
        inspected = [self.api.inspect_container(c["Id"]) for c in own]
        return {i["Name"][1:]: i["Id"] + i["State"]["StartedAt"] for i in inspected}


@pytest.fixture
def grid(api: docker.APIClient, tmp_path: Path) -> Iterator[Grid]:
    grid = Grid(api, tmp_path)
    yield grid
    result = grid.absent()
    assert not result.get("remains"), result
    assert not grid.started()


@pytest.fixture
def foreign(api: docker.APIClient) -> Iterator[Callable[..., str]]:
    """Make containers that are no grid's; afterwards they must be what they were."""
    made: dict[str, str] = {}

    def make(name: str, network: str = "bridge", **more: Any) -> str:
        config = {
            "Image": IMAGE,
            "Labels": FOREIGN,
            "HostConfig": {"NetworkMode": network, **more.pop("host", {})},
            **more,
        }
        identifier = api.create_container_from_config(config, name)["Id"]
        api.start(identifier)
        made[identifier] = api.inspect_container(identifier)["State"]["StartedAt"]
        return str(identifier)

    yield make
    for identifier, started in made.items():
        state = api.inspect_container(identifier)["State"]
        api.remove_container(identifier, force=True)
        assert (state["Status"], state["StartedAt"]) == ("running", started)


def summary(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(action["kind"], action["name"], action["action"]) for action in result["actions"]]


def test_check_mode_announces_converge_makes_second_run_changes_nothing(grid: Grid) -> None:
    grid.args["containers"][0] |= {
        "environment": {"MODE": "test"},
        "hostname": "first",
        "aliases": ["the-first"],
        "ports": [{"container": 80, "host": 41080}, {"container": 81, "host": 41081, "protocol": "udp"}],
        "volumes": [
            {"type": "volume", "source": f"{GRID}_data", "target": "/data", "owner": "1000:1000"},
            {"type": "bind", "source": f"{grid.folder}/out/a", "target": "/out", "owner": "1000:1000"},
            {"type": "bind", "source": f"{grid.folder}/out", "target": "/all", "owner": "0:0"},
        ],
        "files": [{"path": "/etc/conf", "content": "one\r\n\u20ac"}],
        "tmpfs": {"/tmp": "size=1m"},
        "read_only": True,
        "cap_add": ["CHOWN"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "ulimits": {"nofile": 512},
        "restart": "on-failure:3",
        "stop_timeout": 3,
        "labels": {"team": "x"},
        "reset": ["true", "--all"],
    }
    expected = [
        ("network", GRID, "create"),
        ("volume", f"{GRID}_data", "create"),
        ("folder", f"{grid.folder}/out/a", "create"),
        ("folder", f"{grid.folder}/out", "create"),
        ("file", f"{grid.folder}/state/{GRID}/files/{GRID}_a/etc/conf", "create"),
        ("container", f"{GRID}_a", "create"),
        ("container", f"{GRID}_b", "create"),
    ]
    announced = grid.present(check=True)
    assert announced["changed"] and summary(announced) == expected
    assert not grid.started() and not (grid.folder / "out").exists() and not (grid.folder / "state").exists()

    made = grid.present()
    assert summary(made) == expected
    assert made["diff"] == announced["diff"]
    first, second = made["components"]
    assert (first["component"], first["name"], first["address"]) == ("a", f"{GRID}_a", "10.213.41.2")
    assert first["ports"] == "127.0.0.1:41080->80, 127.0.0.1:41081->81/udp"
    assert first["reset"] == ["true", "--all"]
    assert [c["health"] for c in (first, second)] == ["healthy", "healthy"]
    assert grid.inspect("a")["State"]["StartedAt"] < grid.inspect("b")["State"]["StartedAt"]
    shown = run_module("command", container=f"{GRID}_a", argv=["stat", "-c", "%u:%g", "/data", "/out", "/all"])
    assert shown["stdout"] == "1000:1000\n1000:1000\n0:0\n"

    before = grid.started()
    again = grid.present()
    assert (again["changed"], again["actions"]) == (False, [])
    assert again["components"] == made["components"]
    assert grid.present(check=True)["changed"] is False
    assert grid.started() == before


def recreate_by_hand(grid: Grid) -> None:
    """The same name and labels, but another environment: what someone might do with docker run."""
    found = grid.inspect("a")
    grid.api.remove_container(found["Id"], force=True)
    body = {
        **found["Config"],
        "Env": [*found["Config"]["Env"], "DEBUG=1"],
        "HostConfig": found["HostConfig"],
        "NetworkingConfig": {
            "EndpointsConfig": {GRID: {"IPAMConfig": {"IPv4Address": "10.213.41.2"}, "Aliases": ["alias"]}}
        },
    }
    grid.api.start(grid.api.create_container_from_config(body, found["Name"][1:])["Id"])


def other_address(grid: Grid) -> None:
    grid.api.disconnect_container_from_network(grid.name("a"), GRID)
    grid.api.connect_container_to_network(grid.name("a"), GRID, ipv4_address="10.213.41.9")


def other_image(grid: Grid) -> None:
    repository, _colon, tag = IMAGE.partition(":")
    grid.api.tag(OTHER_IMAGE, repository, tag)


DRIFTS: dict[str, tuple[Callable[[Grid], Any], str, list[str]]] = {
    "stopped": (lambda g: g.api.stop(g.name("a")), "start", ["state"]),
    "killed": (lambda g: g.api.kill(g.name("a")), "start", ["state"]),
    "paused": (lambda g: g.api.pause(g.name("a")), "unpause", ["state"]),
    "removed": (lambda g: g.api.remove_container(g.name("a"), force=True), "create", ["state"]),
    "memory": (
        lambda g: g.api.update_container(g.name("a"), mem_limit="48m", memswap_limit="96m"),
        "update",
        ["memory"],
    ),
    "shares": (lambda g: g.api.update_container(g.name("a"), cpu_shares=512), "recreate", ["CpuShares"]),
    "restart": (lambda g: g.api.update_container(g.name("a"), restart_policy={"Name": "no"}), "update", ["restart"]),
    "disconnected": (
        lambda g: g.api.disconnect_container_from_network(g.name("a"), GRID),
        "connect",
        [f"networks.{GRID}"],
    ),
    "also connected": (
        lambda g: g.api.connect_container_to_network(g.name("a"), "bridge"),
        "disconnect",
        ["networks.bridge"],
    ),
    "address": (other_address, "connect", ["address", "aliases"]),
    "made by hand": (recreate_by_hand, "recreate", ["environment.DEBUG"]),
}


def test_drift_is_named_and_only_that_container_is_repaired(grid: Grid) -> None:
    grid.args["containers"][0] |= {"ports": [{"container": 80, "host": 41080}], "aliases": ["alias"]}
    grid.present()
    for drift, (spoil, action, properties) in DRIFTS.items():
        print("drift:", drift)
        before = grid.started()
        spoil(grid)
        announced = grid.present(check=True)
        assert summary(announced) == [("container", f"{GRID}_a", action)]
        assert [reason["property"] for reason in announced["actions"][0]["reasons"]] == properties
        assert f"container {GRID}_a:" in announced["diff"]["before"]

        repaired = grid.present()
        assert not repaired.get("failed")
        assert repaired["actions"] == announced["actions"]
        after = grid.started()
        assert after[f"{GRID}_b"] == before[f"{GRID}_b"]
        if action in ("update", "connect", "disconnect", "unpause"):
            assert after == before
        network = grid.inspect("a")["NetworkSettings"]
        assert network["Networks"][GRID]["IPAddress"] == "10.213.41.2"
        assert network["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "41080"}]}
        assert grid.present(check=True)["changed"] is False


def test_containers_can_swap_addresses(grid: Grid) -> None:
    grid.present()
    before = grid.started()
    first, second = grid.args["containers"]
    first["address"], second["address"] = second["address"], first["address"]
    swapped = grid.present()
    assert [action for _kind, _name, action in summary(swapped)] == ["connect", "connect"]
    assert [c["address"] for c in swapped["components"]] == ["10.213.41.3", "10.213.41.2"]
    assert grid.started() == before
    assert grid.present()["changed"] is False


def test_another_image_under_the_same_name_replaces_only_its_containers(grid: Grid, api: docker.APIClient) -> None:
    original = api.inspect_image(IMAGE)["Id"]
    repository, _colon, tag = IMAGE.partition(":")
    grid.args["containers"][1]["image"] = OTHER_IMAGE
    grid.present()
    before = grid.started()
    api.tag(OTHER_IMAGE, repository, tag)
    try:
        replaced = grid.present()
        assert summary(replaced) == [("container", f"{GRID}_a", "recreate")]
        assert [reason["property"] for reason in replaced["actions"][0]["reasons"]] == ["image"]
        shown = run_module("command", container=f"{GRID}_a", argv=["cat", "/etc/marker"])
        assert shown["stdout"] == "two"
        assert grid.started()[f"{GRID}_b"] == before[f"{GRID}_b"]
    finally:
        api.tag(original, repository, tag)


def test_changed_files_restart_only_their_users_and_secrets_stay_secret(grid: Grid) -> None:
    def files(open_text: str, secret: str) -> list[dict[str, Any]]:
        return [
            {"path": "/etc/conf", "content": open_text},
            {"path": "/run/key", "content": secret, "secret": True, "mode": "0400"},
        ]

    def shown(path: str) -> str:
        return str(run_module("command", container=f"{GRID}_a", argv=["cat", path])["stdout"])

    grid.args["containers"][0]["files"] = files("one\n", "first-secret")
    results = [grid.present()]
    before = grid.started()
    on_disk = grid.folder / "state" / GRID / "files" / f"{GRID}_a" / "etc/conf"

    grid.args["containers"][0]["files"] = files("two\n", "first-secret")
    results.append(grid.present())
    assert summary(results[-1]) == [("file", str(on_disk), "update"), ("container", f"{GRID}_a", "restart")]
    assert "one" in results[-1]["diff"]["before"] and "two" in results[-1]["diff"]["after"]
    assert shown("/etc/conf") == "two\n"

    grid.args["containers"][0]["files"] = files("two\n", "other-secret")
    results.append(grid.present())
    assert shown("/run/key") == "other-secret"
    assert [action for _kind, _name, action in summary(results[-1])] == ["update", "restart"]

    on_disk.write_text("edited by hand\n")
    results.append(grid.present())
    assert shown("/etc/conf") == "two\n"
    assert [action for _kind, _name, action in summary(results[-1])] == ["update", "restart"]

    os.utime(on_disk)  # as if a run had been cut off between writing and restarting
    assert summary(grid.present()) == [("container", f"{GRID}_a", "restart")]
    assert grid.present()["changed"] is False
    assert grid.started()[f"{GRID}_b"] == before[f"{GRID}_b"]
    assert grid.started()[f"{GRID}_a"].startswith(grid.inspect("a")["Id"])
    assert all(secret not in json.dumps(results) for secret in ("first-secret", "other-secret"))
    labels_and_all = json.dumps(grid.inspect("a"))
    assert "secret" not in labels_and_all


def test_every_problem_is_reported_before_anything_changes(
    grid: Grid, api: docker.APIClient, foreign: Callable[..., str]
) -> None:
    foreign(f"{GRID}_b")
    foreign(
        f"{GRID}_holder",
        host={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "41090"}]}},
        ExposedPorts={"80/tcp": {}},
    )
    api.create_volume(f"{GRID}_taken", labels=FOREIGN)
    pool = docker.types.IPAMPool(subnet="10.213.40.0/22")
    api.create_network(f"{GRID}_wide", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels=FOREIGN)
    me = f"process {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    with socket.create_server(("127.0.0.1", 41091)):
        a, b = grid.args["containers"]
        a["ports"] = [{"container": 80, "host": 41090}, {"container": 81, "host": 41091}]
        a["volumes"] = [
            {"type": "volume", "source": f"{GRID}_taken", "target": "/v"},
            {"type": "bind", "source": "/nowhere/at/all", "target": "/w"},
            {"type": "bind", "source": str(grid.folder), "match": "*/none", "target": "/x"},
        ]
        a["image"] = "nosuch"
        b["address"] = a["address"]
        b["depends_on"] = [f"{GRID}_ghost"]
        grid.args["containers"] += [
            grid.definition("c", 200),
            grid.definition("d", 1),
            {**grid.definition("e", 5, depends_on=[f"{GRID}_f"]), "address": "10.99.0.5"},
            grid.definition("f", 6, depends_on=[f"{GRID}_e"]),
        ]
        result = grid.present()
    assert result["failed"] and "nothing was changed" in result["msg"]
    told = "\n".join(result["problems"])
    for expected in (
        f"container {GRID}_b: the name is taken by a container that no grid made",
        f"port 127.0.0.1:41090/tcp is published by container {GRID}_holder",
        f"port 127.0.0.1:41091/tcp is held by {me}",
        f"volume {GRID}_taken: the name is taken by a volume that no grid made",
        f"subnet {SUBNET} overlaps 10.213.40.0/22 of Docker network {GRID}_wide",
        "the engine has no folder /nowhere/at/all",
        f"no folder of the engine matches {grid.folder}/*/none",
        f"container {GRID}_a: image nosuch is neither in the image catalogue (names: tiny) nor on this engine",
        f"container {GRID}_b: address 10.213.41.2 is already the address of container {GRID}_a",
        f"container {GRID}_b: depends_on names {GRID}_ghost",
        f"container {GRID}_c: address 10.213.41.200 is in 10.213.41.128/25, from which Docker hands out addresses",
        f"container {GRID}_d: address 10.213.41.1 is the gateway",
        f"container {GRID}_e: address 10.99.0.5 is outside the subnet",
        f"containers depend on each other in a circle: {GRID}_e -> {GRID}_f -> {GRID}_e",
    ):
        assert expected in told
    assert len(result["problems"]) == 14, told
    assert not grid.started() and not (grid.folder / "state").exists()
    api.remove_network(f"{GRID}_wide")


def test_a_subnet_of_this_machine_is_refused(grid: Grid) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel chooses the address
        own = probe.getsockname()[0]
    subnet = f"{own.rsplit('.', 1)[0]}.0/24"
    grid.args["network"]["subnet"] = subnet
    for definition, last in zip(grid.args["containers"], (3, 4)):
        definition["address"] = subnet.replace("0/24", str(last))
    result = grid.present()
    assert result["failed"]
    assert f"subnet {subnet} overlaps" in result["msg"] or f"holds {own}" in result["msg"]


def test_only_a_complete_run_prunes_and_data_outlives_its_container(grid: Grid, foreign: Callable[..., str]) -> None:
    foreign(f"{GRID}_bystander")
    data = {"type": "volume", "source": f"{GRID}_kept", "target": "/data"}
    grid.args["containers"][1] |= {"volumes": [data], "files": [{"path": "/etc/conf", "content": "x"}]}
    grid.present()
    del grid.args["containers"][1]
    assert grid.present(complete=False)["changed"] is False
    assert f"{GRID}_b" in grid.started()
    pruned = grid.present()
    path = f"{grid.folder}/state/{GRID}/files/{GRID}_b/etc/conf"
    assert summary(pruned) == [("container", f"{GRID}_b", "remove"), ("file", path, "remove")]
    assert list(grid.started()) == [f"{GRID}_a"]
    assert grid.api.inspect_volume(f"{GRID}_kept")
    assert not Path(path).exists()
    assert grid.present()["changed"] is False


def test_a_start_that_fails_tells_why_and_the_rest_goes_on(grid: Grid) -> None:
    grid.args["containers"] = [
        grid.definition("ends", 2, command=["bash", "-c", "echo no such database; exit 7"]),
        grid.definition("after", 3, depends_on=[grid.name("ends")]),
        grid.definition("sick", 4, health={"test": ["cat", "/missing"]}),
        grid.definition("unstartable", 5, command=["nosuch"]),
        grid.definition("well", 6),
    ]
    result = grid.present(wait_timeout=2)
    assert result["failed"] and result["changed"]
    errors = result["msg"]
    assert f"container {GRID}_ends: ended with exit code 7 instead of running" in errors
    assert "  | no such database" in errors
    assert f"container {GRID}_after: not started, because it depends on {GRID}_ends" in errors
    assert (
        f"container {GRID}_sick: is not healthy after 2 s: the check cat /missing ends with 1: cat: /missing" in errors
    )
    assert f"next: see docker logs {GRID}_sick" in errors
    assert f"container {GRID}_unstartable: start: " in errors and '"nosuch": executable file not found' in errors
    assert GRID + "_well" not in errors
    assert grid.inspect("well")["State"]["Running"]


def test_network_drift_is_repaired_unless_a_stranger_is_on_it(
    grid: Grid, api: docker.APIClient, foreign: Callable[..., str]
) -> None:
    grid.present()
    guest = foreign(f"{GRID}_guest", network=GRID)
    moved = copy.deepcopy(grid.args)
    moved["network"]["subnet"] = "10.213.42.0/24"
    for definition, last in zip(moved["containers"], (2, 3)):
        definition["address"] = f"10.213.42.{last}"
    before = grid.started()
    refused = grid.present(**moved)
    assert refused["failed"] and f"container {GRID}_guest (that no grid made) is on it" in refused["msg"]
    torn = grid.absent(check=True)
    assert (
        torn["failed"]
        and f"network {GRID}: containers that are not of this grid are on it: {GRID}_guest" in torn["msg"]
    )
    assert grid.started() == before

    api.disconnect_container_from_network(guest, GRID)
    result = grid.present(**moved)
    assert summary(result) == [
        ("network", GRID, "recreate"),
        ("container", f"{GRID}_a", "recreate"),
        ("container", f"{GRID}_b", "recreate"),
    ]
    assert result["components"][0]["address"] == "10.213.42.2"
    assert grid.present(**moved)["changed"] is False


def test_only_its_containers_reach_an_internal_network(grid: Grid, api: docker.APIClient) -> None:
    def reached(letter: str, address: str) -> bool:
        """Say whether a container reaches another, which refuses a connection to a port on which nothing listens."""
        argv = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{address}/9"]
        told = api.exec_start(api.exec_create(grid.name(letter), argv)["Id"]).decode()
        return "refused" in told  # without a route, nobody or a machine outside answers

    inner, subnet = f"{GRID}_inner", "10.213.42.0/24"
    for definition, last in zip(grid.args["containers"], (2, 3)):
        address = f"10.213.42.{last}"
        definition["networks"] = [{"name": inner, "subnet": subnet, "internal": True, "address": address}]
    grid.args["containers"].append(grid.definition("c", 4))
    announced = summary(grid.present(check=True))
    made = summary(grid.present())
    assert made == announced and ("network", inner, "create") in made
    assert grid.present()["actions"] == []
    assert reached("b", "10.213.42.2") and reached("c", "10.213.41.2")
    assert not reached("c", "10.213.42.2")
    with socket.socket() as machine:
        machine.settimeout(3)
        assert machine.connect_ex(("10.213.42.2", 9)) != errno.ECONNREFUSED

    api.disconnect_container_from_network(grid.name("a"), inner)
    grid.args["containers"][1]["networks"][0]["address"] = "10.213.42.9"
    assert summary(grid.present()) == [
        ("container", grid.name("a"), "connect"),
        ("container", grid.name("b"), "connect"),
    ]
    assert reached("a", "10.213.42.9") and reached("b", "10.213.42.2")

    for definition in grid.args["containers"]:
        definition.pop("networks", None)
    assert summary(grid.present()) == [
        ("network", inner, "remove"),
        ("container", grid.name("a"), "disconnect"),
        ("container", grid.name("b"), "disconnect"),
    ]
    assert grid.present()["actions"] == []


def test_teardown_takes_what_the_grid_made_and_nothing_else(
    grid: Grid, api: docker.APIClient, foreign: Callable[..., str]
) -> None:
    foreign(f"{GRID}_bystander")
    api.create_volume(f"{GRID}_foreign", labels=FOREIGN)
    mine = grid.folder / "mine"
    mine.mkdir()
    (mine / "kept.txt").write_text("mine")
    made = grid.folder / "made"
    grid.args["containers"][0]["volumes"] = [
        {"type": "bind", "source": str(mine), "target": "/mine", "owner": "1000:1000"},
        {"type": "bind", "source": str(made / "deep"), "target": "/made", "owner": "1000:1000"},
        {"type": "volume", "source": f"{GRID}_data", "target": "/data"},
    ]
    grid.present()
    run_module("command", container=f"{GRID}_a", argv=["bash", "-c", "echo result > /made/out; echo more > /mine/new"])

    kept = grid.absent(keep_data=True)
    assert not grid.started()
    assert kept["kept"] == sorted([f"folder {made}", f"folder {made}/deep", f"volume {GRID}_data"])
    assert (made / "deep/out").read_text() == "result\n"
    assert grid.absent(keep_data=True)["changed"] is False

    everything = grid.absent()
    assert everything["removed"] == sorted(
        [f"folder {made}", f"folder {made}/deep", f"folder {grid.folder}/state/{GRID}", f"volume {GRID}_data"]
    )
    assert sorted(path.name for path in grid.folder.iterdir()) == ["mine"]
    assert sorted(path.name for path in mine.iterdir()) == ["kept.txt", "new"]
    assert grid.absent()["changed"] is False
    assert api.inspect_volume(f"{GRID}_foreign")["Labels"] == FOREIGN


def test_bare_machine_in_check_mode_gets_an_announcement(grid: Grid) -> None:
    nobody = f"unix://{grid.folder}/docker.sock"
    announced = grid.present(check=True, docker_host=nobody, images={"tiny": "not/built:yet"})
    assert announced["changed"] and not announced.get("failed")
    assert ("image", "not/built:yet", "build") in summary(announced)
    assert grid.absent(check=True, docker_host=nobody)["changed"] is False
    with_bad_name = run_module("grid", name="../g", state="absent", state_dir=str(grid.folder))
    assert with_bad_name["failed"] and "name: expected two or more letters" in with_bad_name["msg"]
    refused = grid.present(docker_host=nobody)
    assert refused["failed"] and "Docker does not answer" in refused["msg"]


def test_info_and_commands(grid: Grid, api: docker.APIClient) -> None:
    assert run_module("grid_info", name=GRID)["up"] is False
    grid.args["containers"][0]["aliases"] = ["alias-of-a"]
    grid.present()
    api.stop(grid.name("b"))
    info = run_module("grid_info", name=GRID, expected=[grid.name("a"), grid.name("missing")])
    assert info["up"] is True
    assert [(c["name"], c["status"], c["health"]) for c in info["components"]] == [
        (f"{GRID}_a", "running", "healthy"),
        (f"{GRID}_missing", "missing", "unhealthy"),
        (f"{GRID}_b", "exited", "unhealthy"),
    ]
    assert len(info["problems"]) == 2

    one_shot = run_module(
        "command",
        image=IMAGE,
        network=GRID,
        environment={"DATA": {"n": 1}},
        files=[{"path": "/in/key", "content": "a-long-secret", "secret": True}],
        volumes=[{"type": "bind", "source": str(grid.folder), "target": "/work", "read_only": False}],
        argv=["bash", "-c", 'cat /in/key > /work/copy; echo "$DATA"; echo noise >&2'],
    )
    assert (one_shot["rc"], one_shot["json"], one_shot["stderr"]) == (0, {"n": 1}, "noise\n")
    assert (grid.folder / "copy").read_text() == "a-long-secret"
    failing = run_module("command", image=IMAGE, argv=["bash", "-c", "echo broken >&2; exit 3"])
    assert failing["failed"] and failing["rc"] == 3 and failing["msg"].endswith("ended with 3: broken")
    late = run_module("command", image=IMAGE, argv=["sleep", "30"], timeout=1)
    assert late["failed"] and "did not end within 1 s" in late["msg"]
    late = run_module("command", container=grid.name("a"), argv=["sleep", "30"], timeout=1)
    assert late["failed"] and "did not end within 1 s" in late["msg"]
    stopped = run_module("command", container=grid.name("b"), argv=["true"])
    assert stopped["failed"] and "is exited, not running" in stopped["msg"]
    assert run_module("command", True, image=IMAGE, argv=["true"])["skipped"]
    assert not api.containers(all=True, filters={"label": "org.synergos.command"})
