#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_build
short_description: Build or pull images on the engine, in order
version_added: 1.0.0
description:
  - The engine's half of M(synergos.grid.images), which gathers contexts, passes them here and shows the progress.
  - Uses Docker's classic builder through the Docker SDK.
options:
  state:
    description: C(listed) only says what is there, C(present) builds or pulls what is missing.
    type: str
    choices: [listed, present]
    default: present
  images:
    description: Images, parents before children.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name in the catalogue., type: str, required: true}
      reference: {description: Repository and tag., type: str, required: true}
      build: {description: Built here; otherwise pulled., type: bool, default: false}
      parent: {description: Reference of the image it is built from. Without one C(root) is used., type: str}
      root: {description: Where the root file system of an image without parent comes from., type: dict}
      context: {description: Tar archive of the build context on the engine., type: path}
      nocache: {description: Build even if the image is there and without the layer cache., type: bool, default: false}
  build_args:
    description: Build arguments of all images, meant for proxies.
    type: dict
    default: {}
  progress:
    description: File that receives one JSON object a line while the module works.
    type: path
attributes:
  check_mode: {description: Same as O(state=listed)., support: full}
  diff_mode: {description: Images have no readable difference., support: none}
  idempotent: {description: An image that is there is left alone unless C(nocache)., support: full}
requirements: ["docker (Python) >= 7.1"]
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Which images are there
  synergos.grid.image_build:
    state: listed
    images:
      - {name: worker, reference: "synergos/worker:0123456789ab"}
"""

RETURN = r"""
images:
  description:
    - One entry per image that is there, with C(name), C(reference), C(id), C(size) in bytes, C(action) and C(seconds).
  returned: success
  type: list
  elements: dict
missing:
  description: Names of the images that are not there.
  returned: success
  type: list
  elements: str
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils import _imagework as work
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

IMAGE = {
    "name": {"type": "str", "required": True},
    "reference": {"type": "str", "required": True},
    "build": {"type": "bool", "default": False},
    "parent": {"type": "str"},
    "root": {"type": "dict"},
    "context": {"type": "path"},
    "nocache": {"type": "bool", "default": False},
}


def listed(images: list[dict[str, Any]], tolerant: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """What is there and the names of what is not; `tolerant`: without Docker nothing is there."""
    try:
        api = work.connect()
    except GridError:
        if tolerant:
            return [], [image["name"] for image in images]
        raise
    found, missing = [], []
    for image in images:
        there = work.find(api, image["reference"])
        if there:
            found.append(
                {"name": image["name"], "reference": image["reference"], "action": "present", "seconds": 0, **there}
            )
        else:
            missing.append(image["name"])
    return found, missing


def present(
    images: list[dict[str, Any]], arguments: dict[str, str], progress: work.Progress, folder: str
) -> list[dict[str, Any]]:
    api = work.connect()
    results = []
    for image in images:
        started, name, reference = time.monotonic(), image["name"], image["reference"]
        there, action, below = work.find(api, reference), "present", None
        if not image["build"] and not there:
            action = "pulled"
            try:
                work.pull(name, reference, progress)
            except GridError as error:
                chosen = "" if name == reference else f" (synergos_images.{name}.image)"
                raise GridError(
                    f"image {reference}{chosen} is not on the engine and cannot be pulled: {error}. "
                    "Load it with `docker load`, or correct the name"
                ) from error
        elif image["build"] and (not there or image["nocache"]):
            action = "built"
            parent = image["parent"] or work.root(
                api, name, **image["root"], work=Path(folder), proxies=arguments, progress=progress
            )
            work.build(api, image, parent, arguments, progress)
            below = work.find(api, parent)
        there = work.find(api, reference)
        if there is None:
            raise GridError(f"image {reference} was {action}, but the engine does not have it under that name")
        seconds = round(time.monotonic() - started, 1)
        if action != "present":
            own = f" ({(there['size'] - below['size']) / 1e6:.1f} MB of its own)" if below else ""
            progress(
                name, f"{reference} {action} in {seconds:.0f} s, {there['size'] / 1e6:.0f} MB{own}", milestone=True
            )
        results.append({"name": name, "reference": reference, "action": action, "seconds": seconds, **there})
    return results


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["listed", "present"], "default": "present"},
            "images": {"type": "list", "elements": "dict", "required": True, "options": IMAGE},
            # A proxy's address may hold a password.
            "build_args": {"type": "dict", "default": {}, "no_log": True},
            "progress": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress = work.Progress(options["progress"])
    try:
        found, missing = listed(options["images"], tolerant=module.check_mode)
        if options["state"] == "present" and not module.check_mode:
            found, missing = (
                present(options["images"], options["build_args"], progress, work.work_folder(options["progress"])),
                [],
            )
        changed = any(image["action"] != "present" for image in found) or (
            options["state"] == "present" and bool(missing)
        )
        module.exit_json(changed=changed, images=found, missing=missing)
    except GridError as error:
        module.fail_json(msg=str(error))
    finally:
        progress.end()


if __name__ == "__main__":
    main()
