"""The built artifact, installed elsewhere, does the same as the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import docker
from conftest import ROOT, started

BIN = Path(sys.executable).parent


def test_the_installed_collection_finds_nothing_to_change(client: docker.DockerClient, tmp_path: Path) -> None:
    # Nothing of the checkout's own configuration: Ansible would find the collection there.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
    }

    def call(program: str, *argv: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / program, *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    built = call("ansible-galaxy", "collection", "build", "--output-path", str(tmp_path), cwd=ROOT)
    assert built.returncode == 0, built.stderr
    (artifact,) = tmp_path.glob("synergos-grid-*.tar.gz")
    assert artifact.stat().st_size < 2_000_000
    target = str(tmp_path / "collections")
    assert call("ansible-galaxy", "collection", "install", str(artifact), "-p", target, "--offline").returncode == 0
    installed = tmp_path / "collections/ansible_collections/synergos/grid"
    assert (installed / "roles/ttp").is_dir()
    assert not (installed / "collections").exists() and not (installed / "tests").exists()

    shutil.copytree(ROOT / "inventories/basic", tmp_path / "basic")
    before = started(client)
    folders = {"datasets": "examples", "outputs": "outputs", "metadata": "metadata"}
    options = (f"-e=synergos_{name}_dir={ROOT / folder}" for name, folder in folders.items())
    done = call("ansible-playbook", "synergos.grid.synbasic", "-i", str(tmp_path / "basic/hosts.yml"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout and "changed=1" not in done.stdout
    assert started(client) == before
