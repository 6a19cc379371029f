# SPDX-License-Identifier: GPL-3.0-or-later
"""Container definitions: what a component publishes, checked field by field and turned into typed values.

Nothing here talks to a Docker daemon or reads a file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

T = TypeVar("T")

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
SECRET = re.compile(r"[a-z][a-z0-9_]*")
RESTART = re.compile(r"no|always|unless-stopped|on-failure(:[0-9]+)?")
UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LABEL_PREFIX = "org.synergos."
_REQUIRED: Any = object()


@dataclass(frozen=True)
class Port:
    container: int
    host: int
    address: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.address}:{self.host}->{self.container}/{self.protocol}"


@dataclass(frozen=True)
class Volume:
    """A named volume, or a folder of the engine (`type` bind)."""

    type: str
    source: str
    target: str
    read_only: bool
    owner: tuple[int, int] | None
    match: str | None


@dataclass(frozen=True)
class Secret:
    """Which secret of the control node, and as what.

    `plain`, `sha256` for its digest in hexadecimal, or `rabbitmq` for what RabbitMQ keeps of a password.
    """

    name: str
    form: str


@dataclass(frozen=True)
class File:
    """`secrets` are those that the content still lacks: each takes the place of `%(MARK)s`, by its mark."""

    path: str
    content: str
    mode: int
    secret: bool
    secrets: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True)
class Attachment:
    """A further network of a container. The containers on it describe it; none but they are on it."""

    name: str
    subnet: str
    address: str
    internal: bool
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """Times are seconds; `test` is an argument vector that runs in the container without a shell."""

    test: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float | None


@dataclass(frozen=True)
class Resources:
    """`memory` and `shm` are bytes; 0 is the engine's default."""

    memory: int
    cpus: float
    pids: int
    shm: int


@dataclass(frozen=True)
class Container:
    name: str
    component: str
    image: str
    address: str
    command: tuple[str, ...] | None
    entrypoint: tuple[str, ...] | None
    environment: Mapping[str, str]
    user: str
    hostname: str
    aliases: tuple[str, ...]
    networks: tuple[Attachment, ...]
    ports: tuple[Port, ...]
    volumes: tuple[Volume, ...]
    files: tuple[File, ...]
    health: Health | None
    depends_on: tuple[str, ...]
    resources: Resources
    read_only: bool
    tmpfs: Mapping[str, str]
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    security_opt: tuple[str, ...]
    restart: str
    stop_timeout: int | None
    stop_signal: str
    ulimits: Mapping[str, int]
    labels: Mapping[str, str]
    reset: tuple[str, ...]


def parse(definitions: Sequence[Any]) -> tuple[list[Container], list[str]]:
    """Check container definitions.

    Returns the containers that are well formed, in the order given, and every problem found, one sentence each,
    beginning with the container and the field.
    """
    containers: list[Container] = []
    problems: list[str] = []
    for position, definition in enumerate(definitions):
        found: list[str] = []
        container = _container(definition, position, found)
        if found:
            problems.extend(found)
        else:
            containers.append(container)
    seen: set[str] = set()
    for container in containers:
        if container.name in seen:
            problems.append(
                f"container {container.name}: two definitions have this name; give one of them another name"
            )
        seen.add(container.name)
    return containers, problems


def parse_mounts(volumes: Any, files: Any) -> tuple[tuple[Volume, ...], tuple[File, ...], list[str]]:
    """Check `volumes` and `files` outside a container definition; the last item returned is every problem found."""
    problems: list[str] = []
    fields = _Fields({"volumes": volumes, "files": files}, "command", "", problems)
    return fields.items("volumes", _volume), fields.items("files", _plain_file), problems


def secret_texts(files: Iterable[File]) -> set[str]:
    """Content of secret files, to be blanked out wherever it might show up (a log line, an error)."""
    secrets = (text for file in files if file.secret for text in (file.content, file.content.strip()))
    # Very short ones would blank out ordinary words.
    return {text for text in secrets if len(text) >= 6}


def secret_mark(name: str) -> str:
    """What stands in a file's content where a secret goes."""
    return f"%({name})s"


class _Fields:
    """Takes the fields of one mapping, notes what is wrong with each, and finally names the fields nobody knows."""

    def __init__(self, value: Any, subject: str, path: str, problems: list[str]) -> None:
        self.subject = subject
        self.path = path
        self.problems = problems
        self.known: list[str] = []
        self.value: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        self.readable = isinstance(value, Mapping)
        if not self.readable:
            self.problem(path, f"expected a mapping, got {_kind(value)}")

    def problem(self, path: str, text: str) -> None:
        self.problems.append(f"{self.subject}: {path}: {text}" if path else f"{self.subject}: {text}")

    def path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str, convert: Callable[[Any], T], default: Any = _REQUIRED, show: bool = True) -> T:
        """Convert one field; None counts as absent. A field with `show` off is never quoted in a message."""
        self.known.append(key)
        value = self.value.get(key)
        if value is None:
            if default is _REQUIRED and self.readable:
                self.problem(self.path_of(key), "is required")
            return default  # type: ignore[no-any-return]
        try:
            return convert(value)
        except ValueError as error:
            got = f"{value!r}" if show and isinstance(value, (str, int, float)) else _kind(value)
            self.problem(self.path_of(key), f"expected {error}, got {got}")
            return default  # type: ignore[no-any-return]

    def items(self, key: str, build: Callable[[_Fields], T]) -> tuple[T, ...]:
        """Convert a list of mappings, each by `build`."""
        value = self.take(key, _list, ())
        return tuple(self._child(f"{self.path_of(key)}[{index}]", item, build) for index, item in enumerate(value))

    def mapping(self, key: str, build: Callable[[_Fields], T]) -> T | None:
        """Convert one mapping by `build`; None where it is absent."""
        self.known.append(key)
        value = self.value.get(key)
        return None if value is None else self._child(self.path_of(key), value, build)

    def mappings(self, key: str, build: Callable[[_Fields], T]) -> dict[str, T]:
        """Convert a mapping of mappings, each by `build`."""
        value = self.take(key, _mapping, {})
        return {_text(name): self._child(f"{self.path_of(key)}.{name}", item, build) for name, item in value.items()}

    def _child(self, path: str, value: Any, build: Callable[[_Fields], T]) -> T:
        fields = _Fields(value, self.subject, path, self.problems)
        built = build(fields)
        fields.close()
        return built

    def close(self) -> None:
        for key in self.value:
            if key not in self.known:
                fields = ", ".join(sorted(self.known))
                self.problem(self.path_of(str(key)), f"there is no such field; the fields are {fields}")


def _container(value: Any, position: int, problems: list[str]) -> Container:
    name = value.get("name") if isinstance(value, Mapping) else None
    subject = f"container {name}" if isinstance(name, str) and NAME.fullmatch(name) else f"container #{position + 1}"
    fields = _Fields(value, subject, "", problems)
    name = fields.take("name", _pattern(NAME, "a container name: two or more letters, digits, '_', '.' or '-'"))
    container = Container(
        name=name,
        component=fields.take("component", _text),
        image=fields.take("image", _text),
        address=fields.take("address", address),
        command=fields.take("command", _texts, None),
        entrypoint=fields.take("entrypoint", _texts, None),
        environment=fields.take("environment", _text_map, {}),
        user=fields.take("user", _text, ""),
        hostname=fields.take("hostname", _text, "") or name,
        aliases=fields.take("aliases", _texts, ()),
        networks=fields.items("networks", _attachment),
        ports=fields.items("ports", _port),
        volumes=fields.items("volumes", _volume),
        files=fields.items("files", _file),
        health=fields.mapping("health", _health),
        depends_on=fields.take("depends_on", _texts, ()),
        resources=fields.mapping("resources", _resources) or Resources(0, 0.0, 0, 0),
        read_only=fields.take("read_only", _boolean, False),
        tmpfs=fields.take("tmpfs", _text_map, {}),
        cap_add=fields.take("cap_add", _texts, ()),
        cap_drop=fields.take("cap_drop", _texts, ()),
        security_opt=fields.take("security_opt", _texts, ()),
        restart=fields.take(
            "restart", _pattern(RESTART, "no, always, unless-stopped or on-failure[:times]"), "unless-stopped"
        ),
        stop_timeout=fields.take("stop_timeout", _whole(0), None),
        stop_signal=fields.take("stop_signal", _text, ""),
        ulimits=fields.take("ulimits", _whole_map, {}),
        labels=fields.take("labels", _labels, {}),
        reset=fields.take("reset", _texts, ()),
    )
    fields.close()
    if not problems:
        problems.extend(f"{subject}: {problem}" for problem in _contradictions(container))
    return container


def _contradictions(container: Container) -> list[str]:
    """What no single field shows."""
    problems = []
    targets: dict[str, str] = {}
    for kind, target in (
        *(("volumes", volume.target) for volume in container.volumes if volume.match is None),
        *(("files", file.path) for file in container.files),
        *(("tmpfs", path) for path in container.tmpfs),
    ):
        if target in targets:
            problems.append(f"{kind}: {target} is already mounted by {targets[target]}; mount each path once")
        targets[target] = kind
    for port in {port for port in container.ports if container.ports.count(port) > 1}:
        problems.append(f"ports: {port} is given twice; give it once")
    if container.name in container.depends_on:
        problems.append("depends_on: the container depends on itself; remove it from its own list")
    names = [attachment.name for attachment in container.networks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"networks: {name} is given twice; give it once")
    return problems


def _port(fields: _Fields) -> Port:
    return Port(
        container=fields.take("container", _port_number),
        host=fields.take("host", _port_number),
        address=fields.take("address", address, "127.0.0.1"),
        protocol=fields.take("protocol", _choice("tcp", "udp"), "tcp"),
    )


def _volume(fields: _Fields) -> Volume:
    kind = fields.take("type", _choice("volume", "bind"), "volume")
    source = _path if kind == "bind" else _pattern(NAME, "a volume name (for a folder of the engine say type: bind)")
    match = fields.take("match", _relative_pattern, None)
    if match is not None and kind != "bind":
        fields.problem(fields.path_of("match"), "only a bind has folders to match; remove it or say type: bind")
    return Volume(
        type=kind,
        source=fields.take("source", source),
        target=fields.take("target", _path),
        read_only=fields.take("read_only", _boolean, False),
        owner=fields.take("owner", owner, None),
        match=match,
    )


def _attachment(fields: _Fields) -> Attachment:
    return Attachment(
        name=fields.take("name", _pattern(NAME, "a network name")),
        subnet=fields.take("subnet", _text),
        address=fields.take("address", address),
        internal=fields.take("internal", _boolean, False),
        aliases=fields.take("aliases", _texts, ()),
    )


def _secret(fields: _Fields) -> Secret:
    return Secret(
        name=fields.take("name", _pattern(SECRET, "a name of small letters, digits and '_'")),
        form=fields.take("form", _choice("plain", "sha256", "rabbitmq"), "plain"),
    )


def _file(fields: _Fields) -> File:
    secrets = fields.mappings("secrets", _secret)
    file = _plain_file(fields)
    for mark in secrets:
        if isinstance(file.content, str) and secret_mark(mark) not in file.content:
            fields.problem(fields.path_of(f"secrets.{mark}"), f"the content has no {secret_mark(mark)} to put it in")
    return replace(file, secret=file.secret or bool(secrets), secrets=secrets)


def _plain_file(fields: _Fields) -> File:
    return File(
        path=fields.take("path", _path),
        content=fields.take("content", _any_text, show=False),
        mode=fields.take("mode", _mode, 0o444),
        secret=fields.take("secret", _boolean, False),
    )


def _health(fields: _Fields) -> Health:
    return Health(
        test=fields.take("test", _argv),
        interval=fields.take("interval", _number, 10.0),
        timeout=fields.take("timeout", _number, 5.0),
        retries=fields.take("retries", _whole(1), 3),
        start_period=fields.take("start_period", _number, 30.0),
        start_interval=fields.take("start_interval", _number, None),
    )


def _resources(fields: _Fields) -> Resources:
    return Resources(
        memory=fields.take("memory", size, 0),
        cpus=fields.take("cpus", _number, 0.0),
        pids=fields.take("pids", _whole(1), 0),
        shm=fields.take("shm", size, 0),
    )


# Converters: the value, or ValueError with what was expected.


def address(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError("an IPv4 address") from None


def size(value: Any) -> int:
    """Bytes of `512m`, `1g`, `1.5g` or a whole number of bytes."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([bkmg]?)b?", str(value).strip().lower())
    if match is None or isinstance(value, bool):
        raise ValueError("a size such as 512m or 1g")
    return int(float(match.group(1)) * UNITS[match.group(2) or "b"])


def owner(value: Any) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]+):([0-9]+)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('"uid:gid" in numbers and quotes, such as "1000:1000"')
    return int(match.group(1)), int(match.group(2))


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text that is not empty")
    return value


def _scalar_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("text (quote it)")
    return str(value)


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list")
    return value


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("a mapping")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    items = _list(value)
    try:
        return tuple(_scalar_text(item) for item in items)
    except ValueError as error:
        raise ValueError(f"a list in which each item is {error}") from None


def _argv(value: Any) -> tuple[str, ...]:
    if not value or isinstance(value, str):
        raise ValueError("a list: the command and its arguments")
    return _texts(value)


def _text_map(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("a mapping of texts")
    try:
        return {_text(key): _scalar_text(item) for key, item in value.items()}
    except ValueError as error:
        raise ValueError(f"a mapping in which each value is {error}") from None


def _labels(value: Any) -> dict[str, str]:
    labels = _text_map(value)
    if any(key.startswith(LABEL_PREFIX) for key in labels):
        raise ValueError(f"labels that do not start with {LABEL_PREFIX} (the collection's own)")
    return labels


def _whole(least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"a whole number from {least} on")
        return number

    return convert


def _whole_map(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError("a mapping of whole numbers")
    return {_text(key): _whole(-1)(item) for key, item in value.items()}


def _port_number(value: Any) -> int:
    try:
        number = _whole(1)(value)
    except ValueError:
        number = 0
    if not 1 <= number <= 65535:
        raise ValueError("a port from 1 to 65535")
    return number


def _number(value: Any) -> float:
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1e6:
        raise ValueError("a number above 0")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _mode(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('a file mode in quotes, such as "0444"')
    return int(value, 8)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ".." in value.split("/"):
        raise ValueError("an absolute path without '..'")
    return "/" + "/".join(part for part in value.split("/") if part not in ("", "."))


def _relative_pattern(value: Any) -> str:
    if not isinstance(value, str) or not value or value.startswith("/") or ".." in value.split("/"):
        raise ValueError("a pattern of folders below the source, such as '*/dataset'")
    return value


def _pattern(pattern: re.Pattern[str], meaning: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(meaning)
        return value

    return convert


def _choice(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return str(value)

    return convert


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return "text"
    return "true or false" if isinstance(value, bool) else "a number"
