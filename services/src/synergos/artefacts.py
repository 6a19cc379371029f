"""Models and histories by HTTP, from where they are to where they are needed: no folder is shared.

`GET /artefacts/<collab>/<project>/<experiment>/<run>` answers with the files of a run as one tar archive, to whoever
has the run's token. `DELETE` of the same, where that is offered, removes them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from synergos.errors import Forbidden, GridFailure, NotFound
from synergos.ids import check_id
from synergos.logs import get_logger, headers

# Work under way, and what is not for others.
_KEPT_BACK = ("unfinished", "unsent")
_PIECE = 2**20
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
# Seconds that a connection is kept for the next request: fewer than the other end keeps it.
_LINGER = 1.0
_TOKEN, _ORIGIN, _ANSWER, _INCOMING = ".token", ".origin", ".answer", ".incoming-"

Ids = tuple[str, str, str, str]


class Store:
    """The outputs of runs below one folder.

    Args:
        outputs: root of the tree `<collab>/<project>/<experiment>/<run>/`.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._log = get_logger("artefacts")
        # One for all: to make it takes longer than to fetch a small model.
        self._http = httpx.Client(
            timeout=_TIMEOUT, trust_env=False, limits=httpx.Limits(max_connections=None, keepalive_expiry=_LINGER)
        )

    def folder(self, ids: Ids) -> Path:
        """Return the folder of a run."""
        return self._outputs.joinpath(*(check_id(each) for each in ids))

    def allow(self, ids: Ids, token: str) -> None:
        """Give the files of a run to those who have `token`, and to nobody else any more."""
        self._mark(ids, _TOKEN, hashlib.sha256(token.encode()).hexdigest())

    def allowed(self, ids: Ids, token: str) -> bool:
        """Tell whether `token` opens the files of a run."""
        try:
            known = (self.folder(ids) / _TOKEN).read_text()
        except OSError:
            return False
        return hmac.compare_digest(known, hashlib.sha256(token.encode()).hexdigest())

    def note(self, ids: Ids, answer: str) -> None:
        """Keep what was answered about a run, as long as its files are kept."""
        self._mark(ids, _ANSWER, answer)

    def noted(self, ids: Ids) -> str:
        """Return what was answered about a run; empty if that is not known."""
        try:
            return (self.folder(ids) / _ANSWER).read_text()
        except OSError:
            return ""

    def pack(self, ids: Ids, names: Sequence[str] = ()) -> Iterator[bytes]:
        """Return an archive of the files of a run, or of those of `names`, in pieces; raises `NotFound`."""
        folder = self.folder(ids)
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        wanted = [
            path
            for path in found
            if not (path.name.startswith(".") or path.name.endswith(".part") or path.name in _KEPT_BACK)
            and (not names or path.name in names)
        ]
        if not wanted:
            raise NotFound(f"There are no files of {'/'.join(ids)}: train it first.")
        return _archive(wanted)

    def fetch(self, ids: Ids, url: str, token: str, names: Sequence[str] = (), origin: str = "") -> None:
        """Get the files of a run from elsewhere; a reader, or a crash, never sees half of one.

        Args:
            origin: names what is fetched; what was fetched under this name before is not fetched again.

        Raises:
            GridFailure: they cannot be had.
            NotFound: they are not there, or the token does not open them.
        """
        folder = self.folder(ids)
        mark = folder / _ORIGIN
        if origin and mark.is_file() and mark.read_text() == origin:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_INCOMING}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_INCOMING, dir=folder) as name, tempfile.TemporaryFile() as archive:
            incoming = Path(name)
            self._download(url, token, names, archive)
            try:
                with tarfile.open(fileobj=archive) as tar:
                    tar.extractall(incoming, filter="data")
            except tarfile.TarError as error:
                raise GridFailure(f"What {url} sent is no archive: {error}.") from None
            for path in sorted(incoming.iterdir()):
                target = folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                path.replace(target)
        if origin:
            self._mark(ids, _ORIGIN, origin)

    def drop(self, url: str, token: str) -> None:
        """Have files removed elsewhere; that they stay is no more than a waste of room."""
        try:
            answer = self._http.delete(url, headers=_authorized(token))
            # Gone already, its token with it.
            if answer.is_success or answer.status_code == httpx.codes.FORBIDDEN:
                return
            reason = f"HTTP status {answer.status_code}"
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        self._log.warning("files not removed", code=503, url=url, reason=reason)

    def remove(self, ids: Ids) -> None:
        """Remove the files of a run."""
        shutil.rmtree(self.folder(ids), ignore_errors=True)

    def prune(self, newest: int) -> None:
        """Remove the files of all but the newest runs."""

        def age(folder: Path) -> float:
            with suppress(OSError):  # removed meanwhile
                return folder.stat().st_mtime
            return 0.0

        for folder in sorted(self._outputs.glob("*/*/*/*"), key=age, reverse=True)[newest:]:
            shutil.rmtree(folder, ignore_errors=True)
        for depth in ("*/*/*", "*/*", "*"):
            for folder in self._outputs.glob(depth):
                with suppress(OSError):  # not empty
                    folder.rmdir()

    def _mark(self, ids: Ids, name: str, text: str) -> None:
        folder = self.folder(ids)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)

    def _download(self, url: str, token: str, names: Sequence[str], archive: IO[bytes]) -> None:
        try:
            query = {"name": list(names)}
            with self._http.stream("GET", url, params=query, headers=_authorized(token)) as answer:
                if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN):
                    raise NotFound(f"{url} does not have the files: HTTP status {answer.status_code}.")
                answer.raise_for_status()
                for piece in answer.iter_bytes(_PIECE):
                    archive.write(piece)
        except httpx.HTTPError as error:
            raise GridFailure(f"{url} cannot be read: {str(error) or type(error).__name__}.") from None
        archive.seek(0)


class Keys:
    """Tokens of runs that can be made again at any time.

    Args:
        path: file with what they are made from; written when it is missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            part.replace(path)
        self._key = path.read_bytes()

    def token(self, ids: Ids, job_id: str = "") -> str:
        """Return the token of a run, or of what one job makes of it."""
        return hmac.new(self._key, "/".join((*ids, *([job_id] if job_id else []))).encode(), hashlib.sha256).hexdigest()

    def allowed(self, ids: Ids, token: str) -> bool:
        """Tell whether `token` is that of the run."""
        return hmac.compare_digest(self.token(ids), token)


def url(base: str, ids: Ids) -> str:
    """Return where the files of a run are, at a process that answers at `base`."""
    return f"{base}/artefacts/{'/'.join(quote(each, safe='') for each in ids)}"


def base(broker: str, port: int) -> str:
    """Return where others reach this process: SYNERGOS_ARTEFACTS_URL, or its address on the way to the broker.

    Args:
        port: on which it offers artefacts.
    """
    if told := os.environ.get("SYNERGOS_ARTEFACTS_URL"):
        return told.rstrip("/")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing.
            probe.connect((broker, port))
            return f"http://{probe.getsockname()[0]}:{port}"
        except OSError:
            return f"http://{socket.gethostname()}:{port}"


def create_router(store: Store, allowed: Callable[[Ids, str], bool], removable: bool) -> APIRouter:
    """Return the routes of artefacts.

    Args:
        allowed: whether a token opens the files of a run.
        removable: whether who may read them may also have them removed.
    """
    api = APIRouter(prefix="/artefacts/{collab_id}/{project_id}/{expt_id}/{run_id}")

    def check(ids: Ids, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not allowed(ids, token):
            raise Forbidden("The files of a run are for those who have its token: Authorization: Bearer <token>.")

    @api.get("")
    def get_artefacts(
        collab_id: str,
        project_id: str,
        expt_id: str,
        run_id: str,
        name: Annotated[list[str] | None, Query()] = None,
        authorization: Annotated[str, Header()] = "",
    ) -> Response:
        """The files of a run as tar archive, or those of its files that `name` names."""
        ids = (collab_id, project_id, expt_id, run_id)
        check(ids, authorization)
        return StreamingResponse(store.pack(ids, name or ()), media_type="application/x-tar")

    if removable:

        @api.delete("", status_code=204)
        def delete_artefacts(
            collab_id: str,
            project_id: str,
            expt_id: str,
            run_id: str,
            authorization: Annotated[str, Header()] = "",
        ) -> Response:
            ids = (collab_id, project_id, expt_id, run_id)
            check(ids, authorization)
            store.remove(ids)
            return Response(status_code=204)

    return api


def _archive(paths: Sequence[Path]) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in paths:
                tar.add(path, path.name)
        archive.seek(0)
        while piece := archive.read(_PIECE):
            yield piece


def _authorized(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **headers()}
