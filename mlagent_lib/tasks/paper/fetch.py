"""Downloads: a competition by Kaggle's own clients, or a public file; whole, or not at all.

What arrives lies in ``<home>/downloads/<task>/`` and counts only when ``complete.json`` lies beside it, which
is written last. Until then the folder ends in ``.part`` and the next try goes on from it. No text of an
exception of a client is shown: it could hold an address with a signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import importlib.util
import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import FolderLock, write_json
from mlagent_lib.tasks.paper.archives import check_disk, disk_full
from mlagent_lib.tasks.paper.logins import CURE, SETTINGS, find_login
from mlagent_lib.tasks.paper.recipes import Recipe

CLIENTS = ("kagglehub", "kaggle")
MARKER = "complete.json"
ANEW = "download-anew"  # lies in a part whose files turned out damaged, so that no cache gives them again
TRIES = 3
UNPACKED = 2.5  # a download and what is unpacked of it need about so many times its size
_CHUNK = 1 << 20
_TIMEOUT = 60
# Names of exception classes of requests and urllib3, which are not imported here.
_NETWORK = {"ConnectionError", "Timeout", "MaxRetryError", "NewConnectionError", "NameResolutionError"}
_CUT = {"ChunkedEncodingError", "ProtocolError", "IncompleteRead", "ReadTimeout", "ReadTimeoutError",
        "ContentDecodingError", "DataCorruptionError", "RemoteDisconnected"}  # fmt: skip


class Interrupted(TaskError):
    """A download ended before its end."""


@dataclass(frozen=True)
class Client:
    """A client of Kaggle.

    Attributes:
        name: ``kagglehub`` or ``kaggle``.
        download: From the competition's name and an existing folder to where the files lie: that folder or
            another one.
    """

    name: str
    download: Callable[[str, Path], Path]


def _import(name: str):
    """Return a client's module; older ones look for the login while they are imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(name)


def _by_kaggle(slug: str, folder: Path) -> Path:
    api = _import("kaggle").api
    with contextlib.redirect_stdout(io.StringIO()):  # it prints help, and headers where VERBOSE is set
        api.authenticate()
        api.competition_download_files(slug, path=str(folder), quiet=False)
    return folder


def _by_kagglehub(slug: str, folder: Path) -> Path:
    hub = _import("kagglehub")
    with contextlib.redirect_stdout(io.StringIO()):
        # into its own cache, which it keeps whole itself
        return Path(hub.competition_download(slug, force_download=(folder / ANEW).exists()))


def choose_client(wanted: str = "auto") -> Client:
    """Return the wanted client, one of `CLIENTS`, or with ``auto`` the first that is installed.

    Raises:
        TaskError: It is not installed, or the name is unknown.
    """
    if wanted not in ("auto", *CLIENTS):
        raise TaskError(f"client {wanted!r} is unknown", cure=f"choose auto, {' or '.join(CLIENTS)}")
    for name in CLIENTS if wanted == "auto" else (wanted,):
        if importlib.util.find_spec(name) is not None:
            return Client(name, _by_kagglehub if name == "kagglehub" else _by_kaggle)
    missing = "no client of Kaggle is" if wanted == "auto" else f"the client {wanted} is not"
    package = "kagglehub" if wanted == "auto" else wanted
    raise TaskError(
        f"{missing} installed",
        cure=f"pip install {package}; or download the data in a browser and give the file with --from",
    )


def explain(error: BaseException, found: Recipe, login: str, started: bool) -> TaskError:
    """Return the error to raise for what a client raised; nothing of its text is repeated."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    names, rules = {kind.__name__ for kind in type(error).__mro__}, f"{found.page}/rules"
    told = {
        401: (
            f"Kaggle refuses the login in {login} (401)",
            f"make a new token at {SETTINGS} and put it in its place",
        ),
        403: (
            f"Kaggle refuses the data of {found.name} to this login (403): its rules are not accepted",
            f"open {rules} in a browser, log in, accept them (Late Submission or Join), start again"
            + (f". {found.note}" if "rules" in found.note else ""),
        ),
        404: (
            f"Kaggle has no competition {found.slug} any more (404): it is gone or was renamed",
            f"look at {found.page}; a copy that you have can be given with --from",
        ),
    }
    if isinstance(status, int) and status >= 400:
        usual = (f"Kaggle answered with error {status}", "wait some minutes and start again")
        message, cure = told.get(status, usual)
        return TaskError(message, cure=cure)
    if names & {"SystemExit", "UnauthenticatedError"} or "credential" in " ".join(names).lower():
        return TaskError(
            f"the client does not accept the login in {login}",
            cure=f"bring the client up to date (pip install -U kagglehub kaggle: older ones read kaggle.json "
            f"only), or {CURE}",
        )
    if names & _CUT or (started and (names & _NETWORK or isinstance(error, (OSError, TimeoutError)))):
        return Interrupted(
            f"the download of {found.name} was interrupted",
            cure="start the same command again: it goes on from what is there, or begins anew",
        )
    if names & _NETWORK or isinstance(error, (OSError, TimeoutError)):
        return TaskError(
            f"there is no connection to {found.page.split('/')[2]}",
            cure="check the network and the proxy settings, or give a file that you have with --from",
        )
    return TaskError(
        f"the client failed with {type(error).__name__}",
        cure=f"bring it up to date (pip install -U kagglehub kaggle), or download {found.page}/data in a "
        "browser and give the file with --from",
    )


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _is_whole(folder: Path) -> Path | None:
    """Return where the files of a finished download lie; None where it is not finished or was changed."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        source = Path(marker["folder"]) if marker["folder"] else folder
        sizes = {name: (source / name).stat().st_size for name in marker["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return source if sizes == marker["files"] and sizes else None


def fetch(found: Recipe, home: Path, client: Client | str = "auto") -> Path:
    """Return the folder with the downloaded files of a task; download what is not there yet.

    Raises:
        TaskError: No client, no login, refused, not found, no network, no room: see `explain`.
        Interrupted: The download ended too early; the next call goes on.
        RunError: Another process is downloading the same task.
    """
    folder = home / "downloads" / found.name
    with FolderLock(home / "downloads" / f".{found.name}"):
        there = _is_whole(folder)
        if there:
            return there
        if found.slug:
            client = choose_client(client) if isinstance(client, str) else client
            login = find_login()
        needed = UNPACKED * found.size_mb if found.size_mb else found.disk_mb
        check_disk(folder, int(needed * 1e6), f"the download of {found.name}")
        part = folder.with_name(f"{found.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        source = _run_client(found, client, login, part) if found.slug else _public(found, part)
        _finish(found, folder, part, source)
    return _is_whole(folder)


def _finish(found: Recipe, folder: Path, part: Path, source: Path) -> None:
    """Write the marker into the part and give it its final name."""
    (part / ANEW).unlink(missing_ok=True)
    files = {
        path.relative_to(source).as_posix(): path.stat().st_size
        for path in sorted(source.rglob("*"))
        if path.is_file() and not path.name.endswith(".kaggle-partial")
    }
    if not files:
        raise TaskError(
            f"the client brought no file for {found.name}",
            cure=f"download {found.page}/data in a browser and give the file with --from",
        )
    write_json(part / MARKER, {"folder": "" if source == part else str(source), "files": files})
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def _run_client(found: Recipe, client: Client, login: str, part: Path) -> Path:
    before = _bytes_below(part)
    try:
        return client.download(found.slug, part)
    except (KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a boundary: every failure gets a message of ours
        full = disk_full(error, part) if isinstance(error, OSError) else None
        # `from None`: the text of the client's exception can hold an address with a signature.
        raise (full or explain(error, found, login, _bytes_below(part) > before)) from None


def forget(found: Recipe, home: Path) -> None:
    """Put away what was downloaded of a task, for it is damaged: the next `fetch` downloads it anew."""
    folder = home / "downloads" / found.name
    shutil.rmtree(folder, ignore_errors=True)
    part = folder.with_name(f"{found.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    (part / ANEW).touch()


def _public(found: Recipe, part: Path) -> Path:
    """Download a public file and return its folder."""
    target = part / found.url.rsplit("/", 1)[1]
    for attempt in range(TRIES):
        try:
            _download(found, target)
            break
        except Interrupted:
            if attempt == TRIES - 1:
                raise
    if found.md5 and _md5(target) != found.md5:
        target.unlink()
        raise TaskError(
            f"the download of {found.name} is damaged: its checksum differs from the published one",
            cure="it was deleted: start the same command again",
        )
    target.with_name(target.name + ".state").unlink(missing_ok=True)
    return part


def _md5(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(found: Recipe, target: Path) -> None:
    """Download, or go on where an earlier try of the same file ended."""
    state_path = target.with_name(target.name + ".state")
    have = target.stat().st_size if target.exists() else 0
    state = json.loads(state_path.read_text(encoding="utf-8")) if have and state_path.exists() else {}
    request = urllib.request.Request(found.url, headers={"User-Agent": "mlagent"})
    if state.get("version"):  # If-Range: another version of the file is sent from its beginning
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", state["version"])
    begun = False
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            begun, goes_on = True, response.status == 206
            length = response.headers.get("Content-Length")
            total = int(length) + (have if goes_on else 0) if length else None
            version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            write_json(state_path, {"version": version})
            with open(target, "ab" if goes_on else "wb") as handle:
                shutil.copyfileobj(response, handle, _CHUNK)
    except urllib.error.HTTPError as error:
        raise _http(found, target, error.code) from None
    except (http.client.HTTPException, OSError) as error:
        full = disk_full(error, target.parent) if isinstance(error, OSError) else None
        raise (full or explain(error, found, "", begun)) from None
    if total is not None and target.stat().st_size != total:
        raise explain(http.client.IncompleteRead(b""), found, "", True)


def _http(found: Recipe, target: Path, status: int) -> TaskError:
    if status == 416:  # what is there is longer than the file: another version
        target.unlink(missing_ok=True)
        return Interrupted(
            f"the download of {found.name} had to begin anew", cure="start the same command again"
        )
    if status in (404, 410):
        return TaskError(
            f"{found.url} is gone ({status})", cure="a copy that you have can be given with --from"
        )
    return TaskError(f"{found.url} answered with error {status}", cure="wait some minutes and start again")
