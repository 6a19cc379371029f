# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that modules turn into a failure message."""

from __future__ import annotations


class GridError(Exception):
    """What went wrong, on what, and what to do about it, in words for the user."""
