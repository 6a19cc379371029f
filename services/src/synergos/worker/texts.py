"""Texts: csv files of text and label, cleaned into words that are counted over the agreed vocabulary."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from synergos.errors import Invalid
from synergos.jobs import Action, Layout, Meta
from synergos.logs import get_logger
from synergos.worker import files, labels
from synergos.worker.labels import LABEL
from synergos.worker.prepared import BUCKET, Own, Prepared, Source, Told

TEXT = "text"
# Vowel signs, as Hindi and Thai have them, are part of a word but not of \w.
_SIGNS = "".join(chr(sign) for sign in range(0x300, 0x20000) if unicodedata.category(chr(sign)) in ("Mn", "Mc"))
_LETTERS = rf"(?:[^\W_][{_SIGNS}]*)+"
_WORD = re.compile(rf"{_LETTERS}(?:'{_LETTERS})*")
_WORD_OR_MARK = re.compile(rf"{_WORD.pattern}|[^\s]")
_CONTRACTIONS = [
    (re.compile(rf"\b{short}\b"), long)
    for short, long in (
        ("can't", "cannot"),
        ("won't", "will not"),
        ("shan't", "shall not"),
        ("ain't", "is not"),
        ("let's", "let us"),
    )
] + [
    (re.compile(rf"(?<=\w){short}\b"), long)
    for short, long in (
        ("n't", " not"),
        ("'re", " are"),
        ("'ve", " have"),
        ("'ll", " will"),
        ("'m", " am"),
        ("'d", " would"),
        ("'s", ""),
    )
]

log = get_logger("worker.texts")


class Operations(BaseModel):
    """What metadata.json may ask for.

    Attributes:
        max_df: leave out words that more training rows have: a number of rows, or a share of them below 1.
        max_features: words that the participant proposes at most, the most frequent ones of its training set.
        strip_accents: how letters lose their accents; None for not at all.
        keep_html, keep_contractions, keep_punctuations, keep_numbers, keep_stopwords: leave that in the text.
        spellcheck: correct English spelling. It takes 190 MB while it works, and changes names.
        lemmatize: bring English words into their basic form.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    max_df: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] = 30_000
    max_features: int = Field(1000, ge=1, le=20_000)
    strip_accents: Literal["unicode", "ascii"] | None = "unicode"
    keep_html: bool = False
    keep_contractions: bool = False
    keep_punctuations: bool = False
    keep_numbers: bool = False
    keep_stopwords: bool = False
    spellcheck: bool = False
    lemmatize: bool = True


@dataclass(frozen=True)
class Texts(Source):
    """Cleaned texts of one set: words with spaces between them, in the column `text` of `frame`.

    Attributes:
        words: word → training rows that have it, for the words that `Operations` lets through, most frequent first.
    """

    action: Action
    frame: pd.DataFrame
    labels: list[str]
    y: NDArray[np.float64]
    schema: dict[str, str]
    words: dict[str, int]
    operations: Operations
    dropped: int

    def counts(self) -> dict[str, int]:
        """Return nothing: only training rows decide which words are told, or new texts would change the names."""
        return {}

    def own(self) -> Own:
        """Return the names of the labels: words are counted from the text when the layout is known."""
        return Own(y=self.labels)

    def tell(self, told: Told, meta: Meta) -> tuple[list[str], dict[str, Any]]:
        """Return the bucket and the words that enough training rows share, and how they fill this set."""
        shared = [word for word, rows in self.words.items() if rows >= told.minimum_rows or word in told.X]
        names = sorted(shared[: self.operations.max_features])
        if not names:
            raise Invalid(
                f"No word is in at least {told.minimum_rows} rows of the train set after cleaning: "
                "give it more rows, or switch off operations in metadata.json."
            )
        known = set(names)
        present = total = 0
        for text in self.frame[TEXT]:
            own = [word for word in text.split() if word in known]
            present += len(set(own))
            total += len(own)
        cells = len(self.frame) * len(names)
        facts: dict[str, Any] = {"word_count": len(names), "dropped_count": self.dropped}
        if len(self.frame) >= told.minimum_rows:
            facts |= {"sparsity": 1 - present / cells, "representation": total / cells}
        return [BUCKET, *names], facts

    def store(self, path: Path) -> bool:
        """Return False: `frame` says everything."""
        return False


@dataclass(frozen=True)
class Words(Prepared):
    """A stored set.

    Attributes:
        texts: words with spaces between them.
    """

    action: Action
    labels: list[str]
    y: NDArray[np.float64]
    rows: pd.MultiIndex
    texts: list[str]

    def place(self, names: list[str], layout: Layout, keep: NDArray[np.bool_], meta: Meta) -> NDArray[np.float32]:
        """Return log(1 + count) of each word, each row of length 1; words without a name count in the bucket."""
        places = {name: place for place, name in enumerate(names)}
        bucket = places.get(BUCKET)
        X = np.zeros((int(keep.sum()), len(names)), dtype=np.float32)
        for row, index in zip(X, np.flatnonzero(keep), strict=True):
            for word, count in Counter(self.texts[index].split()).items():
                place = places.get(word, bucket)
                if place is not None:
                    row[place] += count
        np.log1p(X, out=X)
        lengths = np.linalg.norm(X, axis=1, keepdims=True)
        X /= np.where(lengths > 0, lengths, 1)
        return X


def load(
    root: Path, folders: Mapping[Meta, Sequence[Path]], action: Action, operations: Operations
) -> dict[Meta, Source]:
    """Read and clean the texts of every set.

    Args:
        root: data folder of the participant.
        folders: data sets per meta, `train` among them.

    Raises:
        Invalid: a file that cannot be used; the message names it.
    """
    clean = Cleaner(operations)
    frames = {meta: _read(root, each, action, clean, meta) for meta, each in folders.items()}
    words = _vocabulary(frames["train"][0][TEXT], operations)
    sets: dict[Meta, Source] = {}
    for meta, (frame, dropped) in frames.items():
        y, names = labels.encode(frame, action)
        schema = {TEXT: "object"} | ({LABEL: "float64" if action == "regress" else "category"} if names else {})
        sets[meta] = Texts(action, frame, names, y, schema, words, operations, dropped)
    return sets


class Cleaner:
    """Turns a text into its words, with spaces between them. Loads what `operations` needs."""

    def __init__(self, operations: Operations) -> None:
        # The libraries wait until there are texts: a worker without any does not need their memory.
        from sklearn.feature_extraction import text

        self._operations = operations
        self._accents: Callable[[str], str] | None = {
            "unicode": text.strip_accents_unicode,
            "ascii": text.strip_accents_ascii,
            None: None,
        }[operations.strip_accents]
        self._stopwords = frozenset() if operations.keep_stopwords else text.ENGLISH_STOP_WORDS
        self._spelling = _spelling() if operations.spellcheck else None
        self._lemma: Callable[[str], str] = str
        if operations.lemmatize:
            from simplemma import lemmatize

            self._lemma = lambda word: lemmatize(word, lang="en").lower()

    def __call__(self, text: str) -> str:
        """Return the words of `text` in lower case."""
        asked = self._operations
        if not asked.keep_html:
            text = _without_html(text)
        text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        if self._accents:
            text = self._accents(text)
        if not asked.keep_contractions:
            for short, long in _CONTRACTIONS:
                text = short.sub(long, text)
        words = (_WORD_OR_MARK if asked.keep_punctuations else _WORD).findall(text)
        if not asked.keep_numbers:
            words = [word for word in words if not word.isnumeric()]
        words = [word for word in words if word not in self._stopwords]
        if self._spelling and words:
            words = self._spelling(" ".join(words)).split()
        return " ".join(self._lemma(word) for word in words)


def _spelling() -> Callable[[str], str]:
    """Return what corrects a whole text, splitting and joining words where that fits better."""
    from importlib.resources import as_file, files

    from symspellpy import SymSpell  # type: ignore[import-untyped]

    speller = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    with as_file(files("symspellpy") / "frequency_dictionary_en_82_765.txt") as path:
        speller.load_dictionary(str(path), term_index=0, count_index=1)
    with as_file(files("symspellpy") / "frequency_bigramdictionary_en_243_342.txt") as path:
        speller.load_bigram_dictionary(str(path), term_index=0, count_index=2)
    return lambda text: str(speller.lookup_compound(text, max_edit_distance=2)[0].term)


class _Html(HTMLParser):
    """Collects the text between tags, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append(" ")
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(" ")
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self._hidden <= 0:
            self.parts.append(data)


def _without_html(text: str) -> str:
    if "<" not in text:
        return html.unescape(text)
    parser = _Html()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def _read(root: Path, folders: Sequence[Path], action: Action, clean: Cleaner, meta: Meta) -> tuple[pd.DataFrame, int]:
    """Return cleaned rows, and how many were left out for lack of a label."""
    frames = []
    for path in [path for folder in folders for path in files.csvs(root, folder)]:
        shown = files.shown(root, path)
        cells = files.read_text_cells(path, shown)
        if len(cells.columns) != 2 and not (meta == "predict" and len(cells.columns) == 1):
            raise Invalid(
                f"{shown} has {len(cells.columns)} column(s): a csv of texts has two, the text and its label"
                f"{' (a predict set may lack the label)' if meta == 'predict' else ''}."
            )
        frame = pd.DataFrame({TEXT: cells.iloc[:, 0]})
        if len(cells.columns) == 2:
            frame[LABEL] = labels.read(cells.iloc[:, 1], action, shown)
        frame.index = pd.MultiIndex.from_product([[shown], range(len(frame))], names=["file", "row"])
        frames.append(frame)
    named = ", ".join(files.shown(root, folder) for folder in folders)
    frame, dropped = labels.drop_unlabelled(pd.concat(frames), meta, named)
    return frame.assign(**{TEXT: [clean(text) for text in frame[TEXT]]}), dropped


def _vocabulary(texts: Sequence[str], operations: Operations) -> dict[str, int]:
    """Return the words that not too many texts have → texts that have them, most frequent first."""
    total: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for text in texts:
        words = text.split()
        total.update(words)
        rows.update(set(words))
    most = operations.max_df if isinstance(operations.max_df, int) else operations.max_df * len(texts)
    ranked = sorted(total, key=lambda word: (-total[word], word))
    return {word: rows[word] for word in ranked if rows[word] <= most}
