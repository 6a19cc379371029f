"""Brings values into a form that can be written, and masks some by their keys, at any depth.

With `--censored`: what looks like a path among the settings of 2021, which are SRC_DIR, IN_DIR, OUT_DIR, DATA_DIR,
MODEL_DIR, CUSTOM_DIR, TEST_DIR, DB_PATH, CACHE_TEMPLATE, PREDICT_TEMPLATE and DB_TEMPLATE, and every key that ends like
one of them. Always: what looks like a secret. Nothing logs one; this is for the day on which somebody does.
"""

from __future__ import annotations

import math
import re
from typing import Any

MASK = "*CENSORED*"
_DEEPEST = 8
_PATH = re.compile(r"(^|_)(cache|database|db|dir|file|folder|outputs?|path|root|src|template)s?$", re.IGNORECASE)
_SECRET = re.compile(r"(^|_)(authorization|cookie|credential|passwd|password|secret|token)s?$", re.IGNORECASE)
# The place in the source.
_PUBLIC = frozenset({"ID_path"})
# The path of these is a URL's.
_REQUESTS = frozenset({"request", "request failed"})


class _Keys(dict[str, bool]):
    """Key → whether it is to be masked; as few keys are ever used, each is looked at once."""

    def __init__(self, *patterns: re.Pattern[str]) -> None:
        super().__init__()
        self._patterns = patterns

    def __missing__(self, key: str) -> bool:
        found = key not in _PUBLIC and any(pattern.search(key) for pattern in self._patterns)
        if len(self) < 1000:
            self[key] = found
        return found


_secrets, _secrets_and_paths = _Keys(_SECRET), _Keys(_SECRET, _PATH)


def clean(line: dict[str, Any], censored: bool) -> dict[str, Any]:
    """Return a copy of `line` that JSON can take, in which what is to be masked is masked."""
    hidden = _secrets_and_paths if censored else _secrets
    cleaned: dict[str, Any] = _clean(line, hidden, _DEEPEST)
    if censored and line["event"] in _REQUESTS and "path" in line:
        cleaned["path"] = line["path"]
    return cleaned


def _clean(value: Any, hidden: _Keys, depth: int) -> Any:
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, dict | list | tuple):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        names = ((str(key), item) for key, item in value.items())
        return {name: MASK if hidden[name] else _clean(item, hidden, depth - 1) for name, item in names}
    return [_clean(item, hidden, depth - 1) for item in value]
