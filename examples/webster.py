"""Take definitions with a field of knowledge from the GNU Collaborative International Dictionary of English.

    python examples/webster.py /usr/share/dictd/gcide.dict.dz > examples/webster.csv

The file is in Debian's package dict-gcide. Only entries of Webster's edition of 1913 are taken, one line each: the
definition without its headword, and the field that the editors put before it.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SEED = 42
ROWS = 400
FIELDS = {"Bot": "botany", "Law": "law", "Mus": "music", "Naut": "seafaring"}
LABEL = re.compile(rf"\(({'|'.join(FIELDS)})\.?\)")


def definitions(dictionary: str) -> Iterator[tuple[str, str]]:
    """Yield (definition, field) of every paragraph that has one field and is short, plain text."""
    for paragraph in dictionary.split("\n\n"):
        found = LABEL.findall(paragraph)
        if len(found) != 1 or "[1913 Webster]" not in paragraph:
            continue
        text = LABEL.split(paragraph)[2].split("[")[0]
        # Cross references, a citation's author, senses (a), (b) and what follows them go.
        text = re.split(r"--|\([a-z]\)|\bSee\b", re.sub(r"[{}]", "", text))[0]
        text = " ".join(text.split()).strip(" ,;:")
        if 40 <= len(text) <= 300 and text.isascii() and text[0].isalpha():
            yield text, FIELDS[found[0]]


def main() -> None:
    """Print the table."""
    dictionary = gzip.decompress(Path(sys.argv[1]).read_bytes()).decode("utf-8", errors="replace")
    known = sorted(set(definitions(dictionary)))
    rng = random.Random(SEED)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["text", "target"])
    for field in FIELDS.values():
        table.writerows(sorted(rng.sample([row for row in known if row[1] == field], ROWS)))


if __name__ == "__main__":
    main()
