# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.query`."""

from __future__ import annotations

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

try:
    import jmespath
except ImportError:
    jmespath = None

DOCUMENTATION = r"""
name: query
short_description: Ask data with a JMESPath expression
version_added: 1.0.0
description:
  - Needs the Python library C(jmespath) on the control node.
positional: expression
options:
  _input:
    description: The data.
    type: raw
    required: true
  expression:
    description: A JMESPath expression.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ status | synergos.grid.query('components[?health!=`healthy`].name') }}"
"""

RETURN = r"""
_value:
  description: The answer.
  type: raw
"""


def plain(value: Any) -> Any:
    """Return `value` made of plain types only: Ansible's tagged strings are no strings to jmespath's type checks."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def query(data: Any, expression: str) -> Any:
    """Return what `expression` finds in `data`."""
    if jmespath is None:
        raise AnsibleFilterError("The Python library jmespath is missing: pip install -r requirements.txt")
    try:
        return jmespath.search(str(expression), plain(data))
    except jmespath.exceptions.JMESPathError as error:
        raise AnsibleFilterError(f"{expression!r} is no usable JMESPath expression: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"query": query}
