"""The plan: what is compared with what Docker reports, in which order things are done, what is shown."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.synergos.grid.plugins.module_utils._address import further_networks, parse_network
from ansible_collections.synergos.grid.plugins.module_utils._compare import compare_container, compare_network
from ansible_collections.synergos.grid.plugins.module_utils._definition import File, parse
from ansible_collections.synergos.grid.plugins.module_utils._desired import create_body
from ansible_collections.synergos.grid.plugins.module_utils._host import Route
from ansible_collections.synergos.grid.plugins.module_utils._plan import (
    Machine,
    Plan,
    Request,
    Snapshot,
    make_plan,
    render,
    timestamp,
)
from ansible_collections.synergos.grid.plugins.module_utils._state import StoredFile

IMAGE = {"Id": "sha256:aaa", "Config": {"Env": ["PATH=/bin"], "Cmd": ["serve"], "Labels": {"vendor": "x"}}}
NETWORK_ID = "n" * 64


def definition(name: str = "aa", address: str = "10.0.0.2", **more: Any) -> dict[str, Any]:
    return {"name": name, "component": "c", "image": "ref", "address": address, **more}


FULL = definition(
    environment={"A": "1"},
    ports=[{"container": 80, "host": 8080}],
    volumes=[{"source": "data", "target": "/data"}],
    files=[{"path": "/etc/a", "content": "x"}],
    health={"test": ["ok"]},
    resources={"memory": "64m", "cpus": 1, "pids": 9},
    aliases=["svc"],
    cap_drop=["ALL"],
    cap_add=["chown"],
    ulimits={"nofile": 10},
)


def body_of(value: dict[str, Any], api: tuple[int, int] = (1, 41)) -> dict[str, Any]:
    (container,), problems = parse([value])
    assert not problems
    mounts = [{"Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": False}]
    return create_body(container, "g", "net", "ref", mounts, api)


def inspect_of(body: dict[str, Any]) -> dict[str, Any]:
    """What Docker would report of a running container that was made from `body`, with what it fills in by itself."""
    body = copy.deepcopy(body)
    host = body["HostConfig"]
    host["CapAdd"] = [f"CAP_{name.upper()}" for name in host["CapAdd"]]
    host |= {"MemorySwap": 2 * host["Memory"], "CpuShares": 0, "Binds": None, "Privileged": False}
    networks = {
        name: {
            "NetworkID": NETWORK_ID,
            "IPAMConfig": endpoint["IPAMConfig"],
            "IPAddress": endpoint["IPAMConfig"]["IPv4Address"],
            "Aliases": [*endpoint["Aliases"], "0123456789ab"],
        }
        for name, endpoint in body["NetworkingConfig"]["EndpointsConfig"].items()
    }
    return {
        "Id": "0123456789abcdef",
        "Name": f"/{body['Hostname']}",
        "Image": IMAGE["Id"],
        "Config": {
            **body,
            "Env": [*body["Env"], "PATH=/bin"],
            "Cmd": body.get("Cmd") or ["serve"],
            "Labels": {**body["Labels"], "vendor": "x"},
            "User": "",
        },
        "HostConfig": host,
        "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:10.5Z", "ExitCode": 0},
        "NetworkSettings": {"Networks": networks},
    }


def test_what_docker_fills_in_is_no_difference() -> None:
    body = body_of(FULL)
    assert compare_container(body, inspect_of(body), IMAGE, {"net": NETWORK_ID}) == []


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str, str]] = [
    (lambda i: i["Config"]["Env"].remove("A=1"), "environment.A", "recreate"),
    (lambda i: i["Config"]["Env"].append("B=2"), "environment.B", "recreate"),
    (lambda i: i["Config"].update(Cmd=["sh"]), "command", "recreate"),
    (lambda i: i["Config"].update(User="0"), "user", "recreate"),
    (lambda i: i["Config"]["Labels"].pop("org.synergos.component"), "labels.org.synergos.component", "recreate"),
    (lambda i: i["Config"].update(Healthcheck=None), "health", "recreate"),
    (lambda i: i["HostConfig"].update(PortBindings={}), "ports", "recreate"),
    (lambda i: i["HostConfig"]["Mounts"][0].update(ReadOnly=True), "mounts", "recreate"),
    (lambda i: i["HostConfig"].update(Binds=["/:/host"]), "Binds", "recreate"),
    (lambda i: i["HostConfig"].update(Privileged=True), "Privileged", "recreate"),
    (lambda i: i["HostConfig"].update(CapDrop=[]), "cap_drop", "recreate"),
    (lambda i: i["HostConfig"].update(Memory=1), "memory", "update"),
    (lambda i: i["HostConfig"].update(PidsLimit=None), "pids", "update"),
    (lambda i: i["HostConfig"].update(CpusetCpus="0"), "CpusetCpus", "recreate"),
    (lambda i: i["HostConfig"].update(RestartPolicy={"Name": "always"}), "restart", "update"),
    (lambda i: i["NetworkSettings"].update(Networks={}), "networks.net", "connect"),
    (lambda i: i["NetworkSettings"]["Networks"]["net"].update(NetworkID="x"), "networks.net", "recreate"),
    (lambda i: i["NetworkSettings"]["Networks"]["net"].update(Aliases=[]), "aliases", "connect"),
    (lambda i: i["NetworkSettings"]["Networks"].update(other={}), "networks.other", "disconnect"),
    (lambda i: i["State"].update(Status="exited"), "state", "start"),
    (lambda i: i["State"].update(Status="paused"), "state", "unpause"),
    (lambda i: i["State"].update(Status="dead"), "state", "recreate"),
    (lambda i: i["State"].update(Health={"Status": "unhealthy"}), "state", "restart"),
    (lambda i: i.update(Image="sha256:bbb"), "image", "recreate"),
]


@pytest.mark.parametrize(
    ("change", "name", "repair"), CHANGES, ids=[f"{name}-{index}" for index, (_c, name, _r) in enumerate(CHANGES)]
)
def test_one_change_is_one_difference(change: Callable[[dict[str, Any]], Any], name: str, repair: str) -> None:
    body = body_of(FULL)
    inspected = inspect_of(body)
    change(inspected)
    (difference,) = compare_container(body, inspected, IMAGE, {"net": NETWORK_ID})
    assert (difference.property, difference.repair) == (name, repair)


def test_each_network_is_compared() -> None:
    body = body_of(definition(networks=[{**INNER, "address": "10.1.0.2"}]))
    inspected = inspect_of(body)
    inner = inspected["NetworkSettings"]["Networks"]["inner"]
    ids = {"net": NETWORK_ID, "inner": inner["NetworkID"]}
    assert compare_container(body, inspected, IMAGE, ids) == []
    inner["IPAMConfig"] = {"IPv4Address": "10.1.0.9"}
    (difference,) = compare_container(body, inspected, IMAGE, ids)
    assert (difference.property, difference.repair, difference.network) == (
        "networks.inner.address",
        "connect",
        "inner",
    )


def test_lifting_a_limit_takes_a_new_container() -> None:
    inspected = inspect_of(body_of(FULL))
    differences = compare_container(body_of({**FULL, "resources": {}}), inspected, IMAGE, {"net": NETWORK_ID})
    assert {d.repair for d in differences} == {"recreate"}


def test_start_interval_only_for_engines_that_know_it() -> None:
    value = definition(health={"test": ["ok"], "start_interval": 0.5})
    assert "StartInterval" not in body_of(value)["Healthcheck"]
    assert body_of(value, (1, 44))["Healthcheck"]["StartInterval"] == 500_000_000


def test_network_differences() -> None:
    network, _problems = parse_network({"name": "net", "subnet": "10.0.0.0/24"})
    assert network
    config = {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1", "IPRange": "10.0.0.128/25"}
    inspected = {"Driver": "bridge", "IPAM": {"Config": [config]}, "Labels": {"org.synergos.grid": "g"}}
    assert compare_network(network, "g", inspected) == []
    del config["IPRange"]
    assert [d.property for d in compare_network(network, "g", inspected)] == ["ip_range"]


def plan(definitions: list[dict[str, Any]], there: Snapshot, **more: Any) -> Plan:
    network, _problems = parse_network({"name": "net", "subnet": "10.0.0.0/24"})
    containers, problems = parse(definitions)
    assert network and not problems
    settings: dict[str, Any] = {"complete": True, "check_mode": False, "images": {}, **more}
    machine = Machine(
        files=settings.pop("files", {}),
        path_of=lambda name, file: f"/state/{name}{file.path}",
        missing=lambda path: path.startswith("/missing"),
        expand=lambda source, match: ["x/data", "y/data"] if source == "/sets" else [],
        routes=settings.pop("routes", []),
        addresses=[],
        why_unusable=settings.pop("why_unusable", lambda address, port, protocol: None),
    )
    there.images = {"ref": IMAGE}
    further, problems = further_networks(containers, network)
    if problems:
        return Plan(problems=problems)
    return make_plan(Request("g", network, containers, further=further, **settings), there, machine)


def existing(*definitions: dict[str, Any]) -> Snapshot:
    """An engine that holds exactly these containers of grid g."""
    there = Snapshot(networks=[network()])
    for value in definitions:
        (container,), _problems = parse([value])
        inspected = inspect_of(create_body(container, "g", "net", "ref", [], (1, 41)))
        there.inspected[value["name"]] = inspected
        there.containers.append(listed(value["name"], grid="g", networks=inspected["NetworkSettings"]["Networks"]))
    return there


def network(
    name: str = "net", subnet: str = "10.0.0.0/24", grid: str = "g", identifier: str = NETWORK_ID
) -> dict[str, Any]:
    base = subnet.rsplit(".", 1)[0]
    config = {"Subnet": subnet, "Gateway": f"{base}.1", "IPRange": f"{base}.128/25"}
    return {
        "Name": name,
        "Id": identifier,
        "Driver": "bridge",
        "IPAM": {"Config": [config]},
        "Labels": {"org.synergos.grid": grid} if grid else {},
    }


def listed(name: str, grid: str = "", networks: Any = None, ports: Any = ()) -> dict[str, Any]:
    return {
        "Id": f"id-{name}",
        "Names": [f"/{name}"],
        "Image": "someimage",
        "State": "running",
        "Labels": {"org.synergos.grid": grid} if grid else {},
        "NetworkSettings": {"Networks": networks or {}},
        "Ports": list(ports),
    }


def test_nothing_to_do() -> None:
    assert plan([definition()], existing(definition())).steps() == []


def test_dependencies_come_first_and_actions_are_the_strongest_repair() -> None:
    there = existing(definition("aa"), definition("bb", "10.0.0.3"))
    there.inspected["aa"]["State"]["Status"] = "exited"
    there.inspected["aa"]["HostConfig"]["Memory"] = 5
    there.inspected["bb"]["HostConfig"]["RestartPolicy"] = {"Name": "no"}
    made = plan(
        [
            definition("aa", depends_on=["cc"], resources={"memory": "1m"}),
            definition("bb", "10.0.0.3"),
            definition("cc", "10.0.0.4", depends_on=["bb"]),
        ],
        there,
    )
    assert [(s.name, s.action, sorted(s.repairs), s.wait) for s in made.containers] == [
        ("bb", "update", ["update"], False),
        ("cc", "create", ["create"], True),
        ("aa", "start", ["start", "update"], True),
    ]


def test_a_starting_container_is_waited_for_but_not_an_action() -> None:
    there = existing(definition(health={"test": ["ok"]}))
    there.inspected["aa"]["State"]["Health"] = {"Status": "starting"}
    made = plan([definition(health={"test": ["ok"]})], there)
    assert made.steps() == []
    assert [(s.name, s.wait) for s in made.containers] == [("aa", True)]


def test_only_a_complete_run_removes_and_never_what_is_foreign() -> None:
    there = existing(definition("aa"), definition("old", "10.0.0.9"))
    there.containers += [listed("foreign"), listed("of_other", grid="other")]
    there.networks += [network("elsewhere", "10.9.0.0/24", grid="other"), network("former", "10.8.0.0/24")]
    files = {"/state/old/etc/x": StoredFile("x", 0o444, 0), "/state/aa/etc/y": StoredFile("x", 0o444, 0)}
    complete = plan([definition("aa")], there, files=files)
    assert [(s.kind, s.name, s.action) for s in complete.steps()] == [
        ("container", "old", "remove"),
        ("network", "former", "remove"),
        ("file", "/state/aa/etc/y", "remove"),
        ("file", "/state/old/etc/x", "remove"),
    ]
    limited = plan([definition("aa")], there, files=files, complete=False)
    assert [(s.kind, s.name, s.action) for s in limited.steps()] == [("file", "/state/aa/etc/y", "remove")]


def test_a_container_of_the_grid_that_this_run_leaves_alone_holds_what_it_has() -> None:
    there = existing(definition("aa"), definition("bb", "10.0.0.3"))
    there.containers[1]["Ports"] = [{"IP": "127.0.0.1", "PublicPort": 80, "Type": "tcp"}]
    wanted = definition("aa", "10.0.0.3", ports=[{"container": 1, "host": 80}])
    told = "\n".join(plan([wanted], there, complete=False).problems)
    assert "address 10.0.0.3 is held by container bb" in told
    assert "port 127.0.0.1:80/tcp is published by container bb (of this grid, not in this run)" in told
    assert plan([wanted], there).problems == []  # b leaves, and with it what it held


def test_ports_already_published_by_the_same_container_are_free() -> None:
    value = definition(ports=[{"container": 1, "host": 80}])
    there = existing(value)
    there.containers[0]["Ports"] = [{"IP": "127.0.0.1", "PublicPort": 80, "Type": "tcp"}]
    taken = lambda address, port, protocol: "is held by process x"  # noqa: E731
    assert plan([value], there, why_unusable=taken).problems == []
    there.containers[0]["Ports"] = []
    (problem,) = plan([value], there, why_unusable=taken).problems
    assert problem.startswith("container aa: port 127.0.0.1:80/tcp is held by process x")


INNER = {"name": "inner", "subnet": "10.1.0.0/24", "internal": True}


def test_a_further_network_is_made_and_its_containers_are_put_on_it() -> None:
    on_it = definition("aa", networks=[{**INNER, "address": "10.1.0.2", "aliases": ["store"]}])
    made = plan([on_it, definition("bb", "10.0.0.3")], existing(definition("aa"), definition("bb", "10.0.0.3")))
    assert [(s.kind, s.name, s.action, s.connect) for s in made.steps()] == [
        ("network", "inner", "create", ()),
        ("container", "aa", "connect", ("inner",)),
    ]
    endpoints = made.containers[0].body["NetworkingConfig"]["EndpointsConfig"]
    assert list(endpoints) == ["net", "inner"]
    assert endpoints["inner"] == {"IPAMConfig": {"IPv4Address": "10.1.0.2"}, "Aliases": ["store"]}


def test_a_further_network_leaves_with_the_last_container_on_it() -> None:
    there = existing(definition("aa"))
    inner = network("inner", "10.1.0.0/24", identifier="i" * 64)
    there.networks.append(inner)
    inspected = there.inspected["aa"]["NetworkSettings"]["Networks"]
    inspected["inner"] = {"NetworkID": inner["Id"], "IPAMConfig": {"IPv4Address": "10.1.0.2"}, "Aliases": []}
    made = plan([definition("aa")], there)
    assert [(s.kind, s.name, s.action, s.disconnect) for s in made.steps()] == [
        ("network", "inner", "remove", ()),
        ("container", "aa", "disconnect", ("inner",)),
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"address": "10.1.0.2"}, {"address": "10.1.0.2"}, "is already the address of container aa"),
        ({"address": "10.1.0.2"}, {"address": "10.0.0.2"}, "is outside the subnet 10.1.0.0/24 of network inner"),
        ({"address": "10.1.0.2"}, {"address": "10.1.0.3", "internal": False}, "inner is described otherwise elsewhere"),
        ({"subnet": "10.0.0.0/16", "address": "10.0.9.9"}, None, "overlaps 10.0.0.0/24 of network net"),
        ({"subnet": "none", "address": "10.0.9.9"}, None, "container aa: networks: network inner: subnet"),
    ],
)
def test_further_networks_that_cannot_work(first: dict[str, Any], second: Any, expected: str) -> None:
    values = [definition("aa", networks=[{**INNER, **first}])]
    if second:
        values.append(definition("bb", "10.0.0.3", networks=[{**INNER, **second}]))
    (problem,) = plan(values, existing()).problems
    assert expected in problem


def test_two_components_cannot_publish_one_port() -> None:
    values = [
        definition("aa", ports=[{"container": 1, "host": 80, "address": "0.0.0.0"}]),
        definition(
            "bb", "10.0.0.3", ports=[{"container": 2, "host": 80}, {"container": 2, "host": 80, "protocol": "udp"}]
        ),
    ]
    (problem,) = plan(values, existing()).problems
    assert problem.startswith("container bb: port 127.0.0.1:80/tcp is also published by container aa")


def test_a_subnet_that_others_use_is_refused_with_their_names() -> None:
    there = Snapshot(networks=[network("wide", "10.0.0.0/16", grid="other", identifier="w" * 64)])
    bridge, vpn = f"br-{'w' * 12}", "tun0"
    parsed, _problems = parse_network({"name": "x", "subnet": "10.0.0.0/16"})
    assert parsed
    routes = [Route(parsed.subnet, bridge), Route(parsed.subnet, vpn)]
    problems = plan([definition()], there, routes=routes).problems
    assert [text.partition("; ")[0] for text in problems] == [
        "network net: subnet 10.0.0.0/24 overlaps 10.0.0.0/16 of Docker network wide (of grid other)",
        "network net: subnet 10.0.0.0/24 overlaps 10.0.0.0/16, which this machine reaches through tun0",
    ]
    # A network that is there already and right is not questioned.
    assert plan([definition()], existing(), routes=[Route(parsed.subnet, vpn)]).problems == []


def test_what_a_killed_daemon_left_is_no_problem_of_a_dry_run() -> None:
    parsed, _problems = parse_network({"name": "x", "subnet": "10.0.0.0/24"})
    assert parsed
    there = Snapshot()
    there.unreachable = "Docker does not answer"
    dry = plan(
        [definition(ports=[{"container": 1, "host": 80}])],
        there,
        routes=[Route(parsed.subnet, "br-0123456789ab")],
        why_unusable=lambda *_: "is held by process docker-proxy",
        check_mode=True,
    )
    assert dry.problems == []
    assert [text.split()[0] for text in dry.warnings] == ["network", "container"]


def test_changed_files_restart_a_running_container() -> None:
    value = definition(files=[{"path": "/f", "content": "new", "secret": True}])
    path = "/state/aa/f"
    there = existing(value)
    there.inspected["aa"]["HostConfig"]["Mounts"] = [{"Type": "bind", "Source": path, "Target": "/f", "ReadOnly": True}]
    started = timestamp("2026-01-01T00:00:10.5Z")
    assert plan([value], there, files={path: StoredFile("new", 0o444, started - 1)}).steps() == []
    changed = plan([value], there, files={path: StoredFile("old", 0o444, started - 1)})
    assert [(s.kind, s.action) for s in changed.steps()] == [("file", "update"), ("container", "restart")]
    assert changed.writes == {path: File("/f", "new", 0o444, True)}
    shown = render(changed.steps())
    assert "old" not in shown["before"] and "new" not in shown["after"].replace("anew", "")
    cut_off = plan([value], there, files={path: StoredFile("new", 0o444, started + 1)})
    assert [(s.kind, s.action) for s in cut_off.steps()] == [("container", "restart")]


def test_mounts_follow_the_pattern_and_missing_folders_are_made_or_refused() -> None:
    value = definition(
        volumes=[
            {"type": "bind", "source": "/sets", "target": "/worker/data", "match": "*/data", "read_only": True},
            {"type": "bind", "source": "/missing/out", "target": "/out", "owner": "1000:1000"},
        ]
    )
    made = plan([value], existing())
    assert made.folders == {"/missing/out": (1000, 1000)}
    mounts = made.containers[0].body["HostConfig"]["Mounts"]
    assert [(m["Source"], m["Target"]) for m in mounts] == [
        ("/sets/x/data", "/worker/data/x/data"),
        ("/sets/y/data", "/worker/data/y/data"),
        ("/missing/out", "/out"),
    ]
    value["volumes"] = [{"type": "bind", "source": "/missing/in", "target": "/in"}]
    assert "the engine has no folder /missing/in" in plan([value], existing()).problems[0]
    announced = plan([value], existing(), check_mode=True)
    assert announced.problems == [] and "/missing/in" in announced.warnings[0]


def test_images_that_will_be_built_are_announced_in_check_mode_only() -> None:
    value = definition(image="ttp")
    images = {"ttp": "synergos/ttp:1"}
    announced = plan([value], existing(), images=images, check_mode=True)
    assert next((s.kind, s.name, s.action) for s in announced.steps()) == ("image", "synergos/ttp:1", "build")
    (problem,) = plan([value], existing(), images=images).problems
    assert problem.startswith("container aa: image ttp (synergos/ttp:1) is not on this engine")
    (problem,) = plan([definition(image="nosuch")], existing(), images=images, check_mode=True).problems
    assert "neither in the image catalogue (names: ttp)" in problem


def test_times_of_docker() -> None:
    assert timestamp("1970-01-01T00:00:01.25Z") == 1.25
    assert timestamp("1970-01-01T00:01:00Z") == 60
    assert timestamp("0001-01-01T00:00:00Z") == 0
