"""The built artifact, installed elsewhere, does the same as the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import docker
from conftest import ROOT, started

BIN = Path(sys.executable).parent


def test_the_installed_collection_finds_nothing_to_change(client: docker.DockerClient, tmp_path: Path) -> None:
    def galaxy(*argv: str, cwd: Path) -> None:
        command = [BIN / "ansible-galaxy", "collection", *argv]
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=300)

    galaxy("build", "--output-path", str(tmp_path), cwd=ROOT)
    (artifact,) = tmp_path.glob("synergos-grid-*.tar.gz")
    assert artifact.stat().st_size < 2_000_000
    galaxy("install", str(artifact), "-p", str(tmp_path / "collections"), "--offline", cwd=tmp_path)
    installed = tmp_path / "collections/ansible_collections/synergos/grid"
    assert (installed / "roles/ttp").is_dir()
    assert not (installed / "collections").exists() and not (installed / "tests").exists()

    shutil.copytree(ROOT / "inventories/basic", tmp_path / "basic")
    before = started(client)
    folders = {"datasets": "examples", "outputs": "outputs", "metadata": "metadata"}
    done = subprocess.run(
        [
            *(BIN / "ansible-playbook", "synergos.grid.synbasic", "-i", tmp_path / "basic/hosts.yml"),
            *(f"-e=synergos_{name}_dir={ROOT / folder}" for name, folder in folders.items()),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path),
             "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout and "changed=1" not in done.stdout
    assert started(client) == before
