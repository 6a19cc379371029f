"""Names that users choose and that become URL segments and folders."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from synergos.errors import Invalid

# One path segment, never "." or "..": ids become folders of the output tree.
# \\Z because "$" would accept a trailing newline.
PATTERN = r"^(?!\.{1,2}\Z)[A-Za-z0-9_.\- ]{1,128}\Z"
_PATTERN = re.compile(PATTERN)


def check_id(value: str, kind: str = "id") -> str:
    """Return `value` if it can serve as one URL segment and one folder name, else raise `Invalid` naming `kind`."""
    if not _PATTERN.match(value):
        raise Invalid(
            f"{kind} {value!r} is not usable: 1 to 128 letters, digits, '_', '-', '.' or blanks, and not '.' or '..'."
        )
    return value


Token = Annotated[str, StringConstraints(min_length=1, max_length=128)]
