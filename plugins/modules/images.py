# SPDX-License-Identifier: GPL-3.0-or-later
# The documentation of the action plugin of the same name: contexts are gathered on the control node.

DOCUMENTATION = r"""
module: images
short_description: Have the images of a catalogue on an engine
version_added: 1.0.0
description:
  - Reads the catalogue on the control node, names every image by the hash of its content, and has those built that the
    engine lacks.
  - Shows the steps of a build while they happen.
  - The package index, the certificate authorities and the proxies of the control node are inputs of a build only. No
    image keeps them and no name depends on them.
options:
  catalogue:
    description: Folder with one folder per image, C(<name>/Dockerfile) and C(<name>/image.yml).
    type: path
    required: true
  required:
    description:
      - Names of the catalogue, whose parents follow.
      - Full references (with a slash or a colon), which are pulled if the engine lacks them.
    type: list
    elements: str
    required: true
  replace:
    description:
      - "Ready images to use instead, as C({name: {image: reference}}). The engine has them or can pull them."
    type: dict
    default: {}
  known:
    description:
      - What the engine is known to have, C(id) and C(size) by reference, as M(synergos.grid.engine) returns it. Where
        all that is required is there, the engine is not asked again.
    type: dict
    default: {}
  rebuild:
    description: Build again without the layer cache what is already there, for packages that have been updated since.
    type: bool
    default: false
  timeout:
    description: Seconds that everything together may take.
    type: int
    default: 3600
attributes:
  check_mode: {description: Says what would be built or pulled., support: full}
  diff_mode: {description: Images have no readable difference., support: none}
  idempotent: {description: Without O(rebuild), support: partial}
seealso:
  - module: synergos.grid.engine
  - module: synergos.grid.image_build
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Have the images of the TTP and the worker
  synergos.grid.images:
    catalogue: "{{ role_path }}/../../images"
    required: [ttp, worker]
    replace:
      worker: {image: "registry.example.org/synergos/worker:1.0"}
"""

RETURN = r"""
references:
  description: Name to reference, parents included.
  returned: success
  type: dict
images:
  description:
    - One entry per image that the engine has, with C(name), C(reference), C(id), C(size) in bytes, C(action) and
      C(seconds). C(action) is V(present), V(built) or V(pulled).
  returned: success
  type: list
  elements: dict
missing:
  description: Names that the engine lacks; in check mode those that would be built or pulled.
  returned: success
  type: list
  elements: str
ansible_facts:
  description: RV(references) as C(synergos_image_references).
  returned: success
  type: dict
"""
