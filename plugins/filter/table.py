# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.table`."""

from __future__ import annotations

from typing import Any, Callable

DOCUMENTATION = r"""
name: table
short_description: Lay records out as an aligned text table
version_added: 1.0.0
description:
  - The first line holds the column names in capitals. A missing or null field stays empty.
positional: columns
options:
  _input:
    description: The records.
    type: list
    elements: dict
    required: true
  columns:
    description: Fields to show, in order.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ [{'name': 'synb_ttp', 'health': 'healthy'}] | synergos.grid.table(['name', 'health']) }}"
"""

RETURN = r"""
_value:
  description: The table, lines joined by line breaks.
  type: str
"""


def table(records: list[dict[str, Any]], columns: list[str]) -> str:
    """Return `records` as a text table of `columns`."""
    rows = [[column.upper() for column in columns]]
    rows += [["" if record.get(column) is None else str(record[column]) for column in columns] for record in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"table": table}
