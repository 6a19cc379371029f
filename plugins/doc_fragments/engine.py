# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that the modules which talk to Docker share."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - Address of the Docker daemon, such as C(unix:///var/run/docker.sock).
      - It must be the daemon of the machine on which the module runs, because files and folders are made on that
        machine.
      - Left out, E(DOCKER_HOST) and the Docker SDK's own default count.
    type: str
requirements:
  - docker >= 7.1, < 8 (the Docker SDK for Python)
  - Docker Engine 20.10 or newer
author: The synergos.grid maintainers (@synergos-grid)
"""
