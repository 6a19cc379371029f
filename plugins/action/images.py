# SPDX-License-Identifier: GPL-3.0-or-later
"""Action `synergos.grid.images`: gather contexts on the control node, build on the engine, show how it goes."""

from __future__ import annotations

import json
import posixpath
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.plugin_utils import _build_settings, _catalogue

MODULE = "synergos.grid.image_build"
POLL = 2.0  # seconds between looks at the progress file
QUIET = 4.0  # seconds between two lines about one image

display = Display()


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "catalogue": {"type": "path", "required": True},
                "required": {"type": "list", "elements": "str", "required": True},
                "replace": {"type": "dict", "default": {}},
                "known": {"type": "dict", "default": {}},
                "rebuild": {"type": "bool", "default": False},
                "timeout": {"type": "int", "default": 3600},
            }
        )
        variables = task_vars or {}
        try:
            definitions = _catalogue.load(Path(options["catalogue"]).resolve())
            replaced = _catalogue.replacements(definitions, options["replace"])
            # A component may name a full reference instead of an image of the catalogue.
            full = [name for name in options["required"] if "/" in name or ":" in name]
            ordered = _catalogue.select(
                definitions, [name for name in options["required"] if name not in full], replaced
            )
            references = _catalogue.references(definitions, ordered, replaced)
        except GridError as error:
            raise AnsibleActionFail(str(error)) from error

        wanted: list[dict[str, Any]] = [
            {"name": reference, "reference": reference} for reference in dict.fromkeys(full)
        ]
        for name in ordered:
            image: dict[str, Any] = {"name": name, "reference": references[name]}
            if name not in replaced:
                parent = definitions[name].parent
                image |= {
                    "build": True,
                    "parent": references[parent] if parent else None,
                    "root": definitions[name].root,
                }
            wanted.append(image)

        known = options["known"]
        if all(image["reference"] in known for image in wanted):
            present = {"action": "present", "seconds": 0}
            own = [{key: image[key] for key in ("name", "reference")} for image in wanted]
            listed = {"images": [image | present | known[image["reference"]] for image in own], "missing": []}
        else:
            listed = self._module({"state": "listed", "images": wanted}, variables)
        if listed.get("failed"):
            return result | listed
        todo = [
            image
            for image in wanted
            if image["name"] in listed["missing"] or (options["rebuild"] and image.get("build"))
        ]
        if todo and not self._task.check_mode:
            for image in todo:
                image["nocache"] = options["rebuild"]
            listed = self._produce(todo, wanted, definitions, options["timeout"], variables)
            if listed.get("failed"):
                return result | listed
        return result | {
            "changed": bool(todo),
            "images": listed["images"],
            "missing": listed["missing"],
            "references": references,
            "ansible_facts": {"synergos_image_references": references},
        }

    def _module(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=variables)
        result.pop("invocation", None)
        return result

    def _produce(
        self,
        todo: list[dict[str, Any]],
        wanted: list[dict[str, Any]],
        definitions: dict[str, _catalogue.Definition],
        timeout: int,
        variables: dict[str, Any],
    ) -> dict[str, Any]:
        """Send the contexts, run the module in the background, follow its progress file, then return its result."""
        # A folder beside the one that Ansible keeps for modules: the background module removes that one.
        shell = self._connection._shell
        modules = shell.tmpdir
        folder = self._make_tmp_path()
        shell.tmpdir = modules
        try:
            sent = [folder]
            for image in todo:
                if image.get("build"):
                    image["context"] = shell.join_path(folder, f"{image['name']}.tar")
                    self._send(definitions[image["name"]], image["context"])
                    sent.append(image["context"])
            self._fixup_perms2(sent)
            progress = shell.join_path(folder, "progress")
            arguments = {
                "state": "present",
                "images": wanted,
                "progress": progress,
                "build_args": _build_settings.arguments(),
            }
            job = self._start(arguments, timeout, variables)
            if "ansible_job_id" not in job:
                return job
            return self._follow(job, progress, variables)
        finally:
            modules = shell.tmpdir
            self._remove_tmp_path(folder, force=True)
            shell.tmpdir = modules

    def _send(self, definition: _catalogue.Definition, path: str) -> None:
        with tempfile.NamedTemporaryFile() as local:
            local.write(_catalogue.context(definition.files | _build_settings.files()))
            local.flush()
            self._transfer_file(local.name, path)

    def _start(self, arguments: dict[str, Any], timeout: int, variables: dict[str, Any]) -> dict[str, Any]:
        waiting = self._task.async_val
        # The time limit of a background module is the task's own keyword; it must not make Ansible poll by itself.
        self._task.async_val = timeout
        try:
            started: dict[str, Any] = self._execute_module(
                module_name=MODULE, module_args=arguments, task_vars=variables, wrap_async=True
            )
            return started
        finally:
            self._task.async_val = waiting

    def _follow(self, job: dict[str, Any], progress: str, variables: dict[str, Any]) -> dict[str, Any]:
        offset, ended, looks = 0, False, 0
        last = ("", 0.0)
        while True:
            time.sleep(POLL)
            looks += 1
            read = self._low_level_execute_command(f"tail -c +{offset + 1} {shlex.quote(progress)}")
            # A connection with a terminal turns line ends into two characters.
            complete = read["stdout"].replace("\r\n", "\n").rpartition("\n")[0] if read["rc"] == 0 else ""
            offset += len(complete.encode()) + 1 if complete else 0
            lines = [json.loads(line) for line in complete.splitlines()]
            for position, line in enumerate(lines):
                ended = ended or line.get("end", False)
                newest = position + 1 == len(lines)
                if line.get("milestone") or (
                    newest and "text" in line and (line["image"] != last[0] or time.monotonic() - last[1] >= QUIET)
                ):
                    display.display(f"{line['image']}: {line['text']}")
                    last = (line["image"], time.monotonic())
            # A killed module writes no end: ask Ansible about it now and then.
            if ended or looks % 30 == 0:
                status = self._status(job, "status", variables)
                if status.get("finished"):
                    self._status(job, "cleanup", variables)
                    for key in ("ansible_job_id", "results_file", "started", "finished", "invocation"):
                        status.pop(key, None)
                    return status

    def _status(self, job: dict[str, Any], mode: str, variables: dict[str, Any]) -> dict[str, Any]:
        # Where the job wrote, not where Ansible would look: the two differ where HOME is not the user's home.
        folder = posixpath.dirname(job["results_file"])
        arguments = {"jid": job["ansible_job_id"], "mode": mode, "_async_dir": folder}
        status: dict[str, Any] = self._execute_module(
            module_name="ansible.legacy.async_status", module_args=arguments, task_vars=variables
        )
        return status
