# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `synergos.grid.build`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue

DOCUMENTATION = r"""
name: build
short_description: Say which images a run of the playbooks uses, and from which revision they are made
version_added: 1.2.0
description:
  - Reads the image catalogue on the control node, as the role C(images) does; no engine is asked.
options:
  _terms:
    description: Names of the catalogue. A full reference stands for itself.
    type: list
    elements: str
    required: true
  replace:
    description: Ready images instead of built ones, as C(synergos_images) has them.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('synergos.grid.build', 'ttp', 'worker') }}"
"""

RETURN = r"""
_raw:
  description:
    - C(images) has the reference of each name.
    - C(revision) is the last commit that changed what images are made of, with C(-dirty) where files differ from it.
      For a collection without a repository it is the version.
  type: list
  elements: dict
"""

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("images", "services")


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: Any = None, **options: Any) -> list[dict[str, Any]]:
        """Return one dict."""
        self.set_options(var_options=variables, direct=options)
        try:
            found = references([str(name) for name in terms], self.get_option("replace"))
        except GridError as error:
            raise AnsibleLookupError(str(error)) from error
        return [{"images": found, "revision": revision(ROOT)}]


def references(names: list[str], replace: dict[str, Any]) -> dict[str, str]:
    """Return the reference of each image, by its name."""
    definitions = _catalogue.load(ROOT / "images")
    replaced = _catalogue.replacements(definitions, replace)
    known = [name for name in names if "/" not in name and ":" not in name]
    found = _catalogue.references(definitions, _catalogue.select(definitions, known, replaced), replaced)
    return {name: found.get(name, name) for name in names}


def revision(root: Path) -> str:
    """Return the revision of the checkout at `root`, else the version of the collection that is installed there."""
    if (root / ".git").exists():
        try:
            commit = _git(root, "log", "-1", "--format=%H", "--", *SOURCES)
            return commit + ("-dirty" if _git(root, "status", "--porcelain", "--", *SOURCES) else "")
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or not one that reads this checkout
    manifest = root / "MANIFEST.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text())["collection_info"]["version"])
    return str(yaml.safe_load((root / "galaxy.yml").read_text())["version"])


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
