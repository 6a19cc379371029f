"""Secrets: made once, private, put into files on the control node, and never shown."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._rabbitmq import password_hash
from ansible_collections.synergos.grid.plugins.plugin_utils._secrets import LEAST, Store, fill

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
SECRET = "N0body-Should-Ever-See-This-One-0123456789"
FILE = {
    "path": "/etc/app",
    "content": "password = %(PASSWORD)s\ndigest = %(DIGEST)s\nhash = %(HASH)s\nrate = 5%\n",
    "secrets": {
        "PASSWORD": {"name": "admin"},
        "DIGEST": {"name": "admin", "form": "sha256"},
        "HASH": {"name": "admin", "form": "rabbitmq"},
    },
}
CONTAINER = {"name": "app", "component": "app", "image": "app", "address": "10.0.0.2", "files": [FILE]}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_secret_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "grid"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: Store("grid", str(folder), False).get("admin"), range(32)))
    assert len(made) == 1 and len(made.pop()) >= LEAST
    assert Store("grid", str(folder), False).get("admin") != Store("grid", str(folder), False).get("other")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"grid": 0o700, "admin": 0o600, "other": 0o600}
    assert Store("grid", str(folder), False).remove() and not folder.exists()


def test_check_mode_makes_nothing(tmp_path: Path) -> None:
    store = Store("grid", str(tmp_path / "grid"), True)
    assert len(store.get("admin")) >= LEAST
    assert not store.remove() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("admin\n", 0o600, "must hold one word of 32 characters or more"),
        (f"{SECRET} {SECRET}", 0o600, "must hold one word"),
        (SECRET, 0o644, "can be read by other users (mode 0644): chmod go="),
    ],
)
def test_a_secret_that_protects_nothing_is_refused(tmp_path: Path, content: str, mode: int, expected: str) -> None:
    folder = tmp_path / "grid"
    folder.mkdir(0o700)
    (folder / "admin").write_text(content)
    (folder / "admin").chmod(mode)
    with pytest.raises(GridError) as caught:
        Store("grid", str(folder), False).get("admin")
    assert expected in str(caught.value) and SECRET not in str(caught.value)


def test_marks_give_way_to_secrets(tmp_path: Path) -> None:
    store = Store("grid", str(tmp_path / "grid"), False)
    plain = {"path": "/etc/plain", "content": "%(PASSWORD)s"}
    ((filled, untouched), hidden) = fill([{**CONTAINER, "files": [FILE, plain]}, {"name": "bare"}], store)
    secret = store.get("admin")
    content = f"password = {secret}\ndigest = {digest(secret)}\nhash = {password_hash(secret)}\nrate = 5%\n"
    assert filled["files"] == [{"path": "/etc/app", "content": content, "secret": True}, plain]
    assert untouched == {"name": "bare"} and hidden == [secret, digest(secret), password_hash(secret)]
    assert "%(PASSWORD)s" in FILE["content"]  # the published definition is left as it was


PLAY = """
- hosts: app
  gather_facts: false
  roles: [app]
- hosts: here
  gather_facts: false
  tasks:
    - synergos.grid.grid:
        name: grid
        network: {name: grid, subnet: 10.0.0.0/24}
        containers: "{{ [hostvars.app.ansible_facts.synergos_component.container] }}"
        images: {app: "app:1"}
        docker_host: unix:///nonexistent.sock
        state_dir: STATE
        secrets_dir: SECRETS
    - ansible.builtin.command:
        argv: [echo, "{{ hostvars }}"]
      check_mode: false
      changed_when: false
"""


def play(tmp_path: Path, *options: str, **container: Any) -> str:
    """Publish a definition and hand it to module grid as a user's run does; return all that Ansible tells."""
    (tmp_path / "roles/app/tasks").mkdir(parents=True, exist_ok=True)
    publish = [{"synergos.grid.component": {**CONTAINER, **container}}]
    (tmp_path / "roles/app/tasks/main.yml").write_text(json.dumps(publish))
    return run(tmp_path, PLAY, *options)


def run(tmp_path: Path, text: str, *options: str) -> str:
    (tmp_path / "play.yml").write_text(
        text.replace("STATE", str(tmp_path / "state")).replace("SECRETS", str(tmp_path / "grid"))
    )
    engine = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "synergos_grid": "grid",
    }
    engines = {"hosts": {"here": engine, "there": engine}}
    hosts = {"hosts": {"app": {"synergos_engine": "here"}}, "children": {"engines": engines}}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": hosts}))
    done = subprocess.run(
        [PLAYBOOK, "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"), "--diff", "-vvv", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_nothing_that_ansible_tells_holds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir(0o700)
    (tmp_path / "grid/admin").write_text(SECRET)
    (tmp_path / "grid/admin").chmod(0o600)
    for told, sign in (
        (play(tmp_path, "--check"), "(secret)"),  # goes through to the diff
        (play(tmp_path), "Docker does not answer"),  # fails in the module
        (play(tmp_path, "--check", address="10.0.9.9"), "is outside the subnet"),  # is refused
    ):
        assert sign in told, told
        assert not any(text in told for text in (SECRET, digest(SECRET), password_hash(SECRET)))
        assert "secrets" in told and "%(PASSWORD)s" in told  # the facts tell where a secret goes


def test_a_mark_that_leads_nowhere_is_refused_where_it_is_published(tmp_path: Path) -> None:
    told = play(tmp_path, files=[{"path": "/f", "content": "x", "secrets": {"A": {"name": "B C", "form": "md5"}}}])
    for sentence in (
        "files[0].secrets.A: the content has no %(A)s to put it in",
        "files[0].secrets.A.name: expected a name of small letters, digits and '_', got 'B C'",
        "files[0].secrets.A.form: expected plain or sha256 or rabbitmq, got 'md5'",
    ):
        assert sentence in told, told


TEARDOWN = """
- hosts: HOSTS
  gather_facts: false
  tasks:
    - synergos.grid.grid:
        name: grid
        state: absent
        keep_data: KEEP
        docker_host: unix:///nonexistent.sock
        state_dir: STATE
        secrets_dir: SECRETS
"""


@pytest.mark.parametrize(
    ("hosts", "keep", "removed"),
    [("engines", "false", True), ("engines", "true", False), ("here", "false", False)],
)
def test_secrets_go_with_the_whole_grid_and_its_data(tmp_path: Path, hosts: str, keep: str, removed: bool) -> None:
    Store("grid", str(tmp_path / "grid"), False).get("admin")
    told = run(tmp_path, TEARDOWN.replace("HOSTS", hosts).replace("KEEP", keep), "--check")
    assert "failed=0" in told, told
    assert (f"secrets in {tmp_path / 'grid'}" in told) == removed, told
