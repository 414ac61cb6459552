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
from pathlib import Path

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import FolderLock, write_json
from mlagent_lib.tasks.paper.archives import check_disk, disk_full
from mlagent_lib.tasks.paper.logins import CURE, SETTINGS, find_login
from mlagent_lib.tasks.paper.recipes import Recipe
from mlagent_lib.tasks.refusals import refusal

# From a competition's name and an existing folder to where the files lie: that folder or another one.
Client = Callable[[str, Path], Path]
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


# Both print help, headers where VERBOSE is set, and, the older ones while they are imported, a missing login.
def _by_kaggle(slug: str, folder: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        api = importlib.import_module("kaggle").api
        api.authenticate()
        api.competition_download_files(slug, path=str(folder), quiet=False)
    return folder


def _by_kagglehub(slug: str, folder: Path) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        hub = importlib.import_module("kagglehub")
        # into its own cache, which it keeps whole itself
        return Path(hub.competition_download(slug, force_download=(folder / ANEW).exists()))


CLIENTS = {"kagglehub": _by_kagglehub, "kaggle": _by_kaggle}


def choose_client(wanted: str = "auto") -> Client:
    """Return the wanted client of Kaggle, one of `CLIENTS`, or with ``auto`` the first that is installed.

    Raises:
        TaskError: It is not installed, or the name is unknown.
    """
    if wanted not in ("auto", *CLIENTS):
        raise refusal("unknown client", name=wanted, known=" or ".join(CLIENTS))
    for name in CLIENTS if wanted == "auto" else (wanted,):
        if importlib.util.find_spec(name) is not None:
            return CLIENTS[name]
    raise refusal("no client" if wanted == "auto" else "client not installed", name=wanted)


def explain(error: BaseException, found: Recipe, login: str, started: bool) -> TaskError:
    """Return the error to raise for what a client raised; nothing of its text is repeated."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(status, int) and status >= 400:
        known = {401: "login refused", 403: "rules not accepted", 404: "competition gone"}
        note = f". {found.note}" if "rules" in found.note else ""
        told = {"found": found, "login": login, "settings": SETTINGS, "status": status, "note": note}
        return refusal(known.get(status, "kaggle error"), **told)
    if names & {"SystemExit", "UnauthenticatedError"} or "credential" in " ".join(names).lower():
        return refusal("login not accepted", login=login, cure=CURE)
    of_network = bool(names & _NETWORK) or isinstance(error, OSError)
    if names & _CUT or (started and of_network):
        return refusal("download interrupted", Interrupted, name=found.name)
    if of_network:
        return refusal("no connection", host=found.page.split("/")[2])
    return refusal("client failed", error=type(error).__name__, page=found.page)


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
        if there := _is_whole(folder):
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
    paths = [path for path in sorted(source.rglob("*")) if path.is_file()]
    whole = [path for path in paths if not path.name.endswith(".kaggle-partial")]
    files = {path.relative_to(source).as_posix(): path.stat().st_size for path in whole}
    if not files:
        raise refusal("client brought nothing", found=found)
    write_json(part / MARKER, {"folder": "" if source == part else str(source), "files": files})
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def _run_client(found: Recipe, client: Client, login: str, part: Path) -> Path:
    before = _bytes_below(part)
    try:
        return client(found.slug, part)
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
    with open(target, "rb") as handle:
        md5 = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found.md5 not in ("", md5):
        target.unlink()
        raise refusal("other checksum", name=found.name)
    target.with_name(target.name + ".state").unlink(missing_ok=True)
    return part


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
        return refusal("download anew", Interrupted, name=found.name)
    return refusal("file gone" if status in (404, 410) else "file error", url=found.url, status=status)
