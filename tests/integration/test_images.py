"""The role `images` against the real engine, with a catalogue of two tiny images."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """
- hosts: all
  gather_facts: false
  roles:
    - role: synergos.grid.images
  tasks:
    - ansible.builtin.copy:
        content: "{{ ansible_facts.synergos_image_references | to_json }}"
        dest: "{{ playbook_dir }}/references.json"
      check_mode: false
      changed_when: false
"""
ROOT_IMAGE = """ARG PARENT
FROM ${PARENT}
RUN echo root > /root.txt
"""
# The first stage sees how this machine reaches an index; the second must not.
LEAF_IMAGE = """ARG PARENT
FROM ${PARENT} AS build
COPY build/ /run/build/
RUN test -s /run/build/pip.conf \\
 && test "$http_proxy" = "http://secret@proxy.invalid:1" \\
 && mkdir /out && date > /out/built
FROM ${PARENT}
COPY --from=build /out /out
COPY code/ /code/
"""


def run_role(
    folder: Path, catalogue: Path, required: list[str], *arguments: str, **environment: str
) -> tuple[str, dict[str, str]]:
    """Run the role; what it printed, and the references that it left as a fact, {} if it failed."""
    (folder / "playbook.yml").write_text(PLAYBOOK)
    report = folder / "references.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"),
            *("-e", json.dumps({"images_catalogue": str(catalogue), "images_required": required})),
            *arguments,
            str(folder / "playbook.yml"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "4096", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == report.exists(), done.stdout + done.stderr
    return done.stdout + done.stderr, json.loads(report.read_text()) if report.exists() else {}


class Catalogue:
    """probe_root ← probe_leaf, which includes code/."""

    def __init__(self, folder: Path, start: str) -> None:
        self.folder = folder
        self.write("images/probe_root/image.yml", yaml.safe_dump({"root": {"image": start, "suite": "trixie"}}))
        self.write("images/probe_root/Dockerfile", ROOT_IMAGE)
        self.write("images/probe_leaf/image.yml", yaml.safe_dump({"from": "probe_root", "include": ["code"]}))
        self.write("images/probe_leaf/Dockerfile", LEAF_IMAGE)
        # Every test has its own images.
        self.write("code/version.txt", f"{folder}\n")
        self.write("images/probe_root/origin.txt", f"{folder}\n")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def run(self, *arguments: str, required: str = "probe_leaf", **environment: str) -> tuple[str, dict[str, str]]:
        proxy = {"http_proxy": "http://secret@proxy.invalid:1"}
        return run_role(self.folder, self.folder / "images", [required], *arguments, **proxy, **environment)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    # Children first; Docker then drops the layers that nothing else uses.
    tags = [tag for image in client.images.list() for tag in image.tags if tag.startswith("synergos/probe_")]
    for tag in sorted(tags):
        client.api.remove_image(tag)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that is on the engine, so that no test waits for a registry."""
    output, references = run_role(tmp_path_factory.mktemp("base"), ROOT / "images", ["base"])
    assert references, output
    return references["base"]


@pytest.fixture
def catalogue(tmp_path: Path, start: str, client: docker.DockerClient) -> Catalogue:
    return Catalogue(tmp_path, start)


class Registry:
    """A registry on loopback that holds one image of one file; Docker speaks plain HTTP there."""

    def __init__(self, content: bytes) -> None:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            entry = tarfile.TarInfo("content")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        root = {"type": "layers", "diff_ids": [digest(layer.getvalue())]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}).encode()
        kinds = "application/vnd.docker"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kinds}.distribution.manifest.v2+json",
            "config": self.blob(f"{kinds}.container.image.v1+json", config),
            "layers": [self.blob(f"{kinds}.image.rootfs.diff.tar", layer.getvalue())],
        }
        answers = {digest(blob): blob for blob in (config, layer.getvalue())}
        body = json.dumps(manifest).encode()
        answers |= {"1": body, digest(body): body, "": b"{}"}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path.rpartition("/")[2])
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(found or b"")))
                self.send_header("Content-Type", manifest["mediaType"] if found == body else "application/octet-stream")
                self.send_header("Docker-Content-Digest", digest(found or b""))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(found or b"")

            do_HEAD = do_GET

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.reference = f"127.0.0.1:{self.server.server_port}/synergos/probe_leaf:1"

    @staticmethod
    def blob(kind: str, content: bytes) -> dict[str, object]:
        return {"mediaType": kind, "size": len(content), "digest": digest(content)}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def executions(output: str) -> int:
    """Module executions of the role (-vvv), without the playbook's own task."""
    return len(re.findall(r"Using module file .*/(image_build|async_status)\.py", output))


def test_builds_once_and_again_only_what_changed(catalogue: Catalogue, client: docker.DockerClient) -> None:
    output, first = catalogue.run()
    assert set(first) == {"probe_root", "probe_leaf"}, output
    assert "changed=1" in output
    for name, reference in first.items():
        assert re.search(rf"^{name}: {reference} built in \d+ s, \d+ MB \([\d.]+ MB of its own\)$", output, re.M), (
            output
        )
        assert client.images.get(reference).labels == {"org.synergos.image": name}

    output, second = catalogue.run("-vvv")
    assert second == first
    assert "changed=0" in output and executions(output) == 1, output

    known = {reference: {"id": "sha256:0", "size": 1} for reference in first.values()}
    output, same = catalogue.run("-vvv", "-e", json.dumps({"images_known": known}))
    assert same == first
    assert "changed=0" in output and executions(output) == 0, output
    known.pop(first["probe_leaf"])
    output, _same = catalogue.run("-vvv", "-e", json.dumps({"images_known": known}))
    assert "changed=0" in output and executions(output) == 1, "what is not known may be there all the same"

    catalogue.write("code/version.txt", "new\n")
    output, third = catalogue.run()
    assert third["probe_root"] == first["probe_root"] and third["probe_leaf"] != first["probe_leaf"]
    assert "probe_root:" not in output, "the unchanged parent is not built"
    read = client.containers.run(
        third["probe_leaf"], ["cat", "/code/version.txt"], remove=True, labels={"org.synergos.test": "images"}
    )
    assert read == b"new\n"


def test_what_a_build_learns_from_this_machine_is_not_in_the_image(
    catalogue: Catalogue, client: docker.DockerClient
) -> None:
    output, references = catalogue.run()
    assert references, output
    image = client.images.get(references["probe_leaf"])
    said = json.dumps([image.attrs, image.history()])
    assert "secret@proxy" not in said and "pip.conf" not in said
    found = client.containers.run(
        references["probe_leaf"], ["ls", "/run", "/out"], remove=True, labels={"org.synergos.test": "images"}
    ).decode()
    assert "built" in found and "build\n" not in found


def test_rebuild_does_not_use_the_layer_cache(catalogue: Catalogue, client: docker.DockerClient) -> None:
    before = client.images.get(catalogue.run()[1]["probe_leaf"]).id
    _output, references = catalogue.run("-e", '{"images_rebuild": true}')
    assert client.images.get(references["probe_leaf"]).id != before


def test_check_mode_builds_nothing(catalogue: Catalogue, client: docker.DockerClient) -> None:
    output, references = catalogue.run("--check")
    assert set(references) == {"probe_root", "probe_leaf"}
    assert "changed=1" in output
    for reference in references.values():
        with pytest.raises(docker.errors.ImageNotFound):
            client.images.get(reference)


def test_check_mode_works_on_a_machine_without_docker(catalogue: Catalogue) -> None:
    output, references = catalogue.run("--check", DOCKER_HOST=f"unix://{catalogue.folder}/no.sock")
    assert set(references) == {"probe_root", "probe_leaf"}, output
    output, references = catalogue.run(DOCKER_HOST=f"unix://{catalogue.folder}/no.sock")
    assert not references and "Docker does not answer" in output and "role engine" in output


def test_a_failed_build_names_image_step_and_last_lines(catalogue: Catalogue, client: docker.DockerClient) -> None:
    catalogue.write("images/probe_leaf/Dockerfile", "ARG PARENT\nFROM ${PARENT}\nRUN echo about to fail && exit 7\n")
    output, references = catalogue.run()
    assert not references
    for words in ("building image probe_leaf failed at step", "returned a non-zero code: 7", "about to fail"):
        assert words in output, output
    assert "Traceback" not in output


def test_a_ready_image_replaces_a_built_one(catalogue: Catalogue, start: str) -> None:
    output, references = catalogue.run("-e", json.dumps({"synergos_images": {"probe_leaf": {"image": start}}}))
    assert references == {"probe_leaf": start}, output
    assert "changed=0" in output


def test_a_ready_image_is_pulled(catalogue: Catalogue, client: docker.DockerClient) -> None:
    registry = Registry(str(catalogue.folder).encode())
    choice = ("-e", json.dumps({"synergos_images": {"probe_leaf": {"image": registry.reference}}}))
    try:
        output, references = catalogue.run(*choice)
        assert references == {"probe_leaf": registry.reference}, output
        assert f"probe_leaf: {registry.reference} pulled in" in output and "changed=1" in output
    finally:
        registry.server.shutdown()
        registry.server.server_close()
    output, _references = catalogue.run(*choice)
    assert "changed=0" in output, "the registry is not asked again"
    client.api.remove_image(registry.reference)


@pytest.mark.parametrize("required", ["probe_leaf", "registry.invalid/synergos/none:1"])
def test_a_ready_image_that_is_nowhere_is_named(catalogue: Catalogue, required: str) -> None:
    gone = {"probe_leaf": {"image": "registry.invalid/synergos/none:1"}}
    output, references = catalogue.run("-e", json.dumps({"synergos_images": gone}), required=required)
    assert not references
    assert "image registry.invalid/synergos/none:1" in output and "is not on the engine and cannot be pulled" in output
    assert ("synergos_images.probe_leaf.image" in output) == (required == "probe_leaf")
