"""From a download to the few files that a recipe needs: archives inside archives, opened with care.

Only wanted members are unpacked; no member may leave the folder; a damaged archive, a missing file and a
full disk each have a message of their own.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.paper.recipes import Recipe
from mlagent_lib.tasks.refusals import refusal

_ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar", ".7z")
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


class DamagedArchive(TaskError):
    """An archive cannot be read to its end."""


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise a `TaskError` where the disk of ``folder``, which may not exist yet, lacks the bytes needed."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise refusal("small disk", what=what, needed=needed / 1e6, folder=folder, free=free / 1e6)


def disk_full(error: OSError, folder: Path) -> TaskError | None:
    """Return the error to raise where ``error`` says that the disk is full, else None."""
    return refusal("full disk", folder=folder) if error.errno in (errno.ENOSPC, errno.EDQUOT) else None


def is_archive(path: Path) -> bool:
    """Return whether the name is that of an archive.

    Example:
        >>> is_archive(Path("train.csv.zip")), is_archive(Path("edge.csv.gz"))
        (True, False)
    """
    return path.name.endswith(_ENDINGS)


def _matches(member: str, globs: tuple[str, ...]) -> bool:
    """Return whether the end of a path matches one of the globs.

    Example:
        >>> _matches("data/processed/train.json", ("train.json",)), _matches("train/a.jpg", ("x/*.jpg",))
        (True, False)
    """
    return any(PurePosixPath(member).match(glob) for glob in globs)


def _safe(member: str, archive: Path) -> str:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or ":" in path.parts[0]:
        raise refusal("member outside", name=archive.name, member=member)
    return member


def unpack(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted members of a zip, tar or 7z archive into an existing folder.

    Raises:
        DamagedArchive: It cannot be read to its end.
        TaskError: A member would leave the folder; the disk is too small; py7zr is not installed.
    """
    by_end = {".zip": _unpack_zip, ".7z": _unpack_7z}
    try:
        by_end.get(archive.suffix, _unpack_tar)(archive, into, wanted)
    except _DAMAGE as error:
        raise _damaged(archive) from error
    except OSError as error:
        full = disk_full(error, into)
        if full or isinstance(error, FileNotFoundError):
            raise full or error from error
        raise _damaged(archive) from error  # gzip reports a bad header and a bad checksum so


def _damaged(archive: Path) -> DamagedArchive:
    return refusal("damaged archive", DamagedArchive, name=archive.name)


def _unpack_zip(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    with zipfile.ZipFile(archive) as opened:
        # Of an archive that was cut off, zipfile would read the last whole archive inside as if it were it.
        if min((info.header_offset for info in opened.infolist()), default=0) != 0:
            raise zipfile.BadZipFile("does not begin with its first member")
        members = [info for info in opened.infolist() if not info.is_dir()]
        members = [info for info in members if wanted(_safe(info.filename, archive))]
        check_disk(into, sum(info.file_size for info in members), f"unpacking {archive.name}")
        for info in members:
            opened.extract(info, into)  # checks the CRC of each


def _unpack_tar(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and wanted(_safe(member.name, archive)):
                check_disk(into, member.size, f"unpacking {archive.name}")
                opened.extract(member, into, filter="data")


def _unpack_7z(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    try:
        import py7zr
    except ImportError as error:
        raise refusal("no reader of 7z", name=archive.name) from error
    try:
        with py7zr.SevenZipFile(archive) as opened:
            members = [name for name in opened.getnames() if wanted(_safe(name, archive))]
            opened.extract(path=into, targets=members)
    except py7zr.exceptions.ArchiveError as error:
        raise _damaged(archive) from error


class Files:
    """The files of a download that a recipe needs.

    Args:
        source: The downloaded archive, or a folder with archives or files.
        work: A folder for what is unpacked; thrown away by the caller afterwards.

    Raises:
        TaskError: See `unpack`; or a needed file is in none of the archives.
    """

    def __init__(self, source: Path, work: Path, found: Recipe):
        self.recipe, self.roots = found, [work]
        # A single file of a competition may come as <file>.zip.
        inner = found.archives + tuple(f"{glob}{end}" for glob in found.files for end in (".zip", ".7z"))
        todo = [source]
        if source.is_dir():
            self.roots.append(source)
            packed = [path for path in self._below(source) if is_archive(path)]
            todo = [path for path in packed if len(packed) == 1 or _matches(path.name, inner)]
            todo = [path for path in packed if path.name == f"{found.slug}.zip"] or todo
        count = 0
        while todo:
            archive, count = todo.pop(), count + 1
            # Named like the archive, so that the flat files of train.zip lie in train/ as well.
            stem = archive.name.split(".")[0]
            into = work / str(count) / stem
            into.mkdir(parents=True)
            unpack(archive, into, lambda member, stem=stem: _matches(f"{stem}/{member}", found.files + inner))
            todo += [path for path in self._below(into) if is_archive(path)]
        for glob in found.files:
            self.many(glob)

    @staticmethod
    def _below(root: Path) -> list[Path]:
        return sorted(path for path in root.rglob("*") if path.is_file())

    def many(self, glob: str) -> list[Path]:
        """Return the files whose path ends as the glob says, at least one.

        Raises:
            TaskError: There is none.
        """
        paths = dict.fromkeys(path for root in self.roots for path in self._below(root))  # each once
        found = [path for path in paths if path.match(glob)]
        if not found:
            there = ", ".join(sorted({path.name for path in paths})[:8]) or "nothing that is needed"
            raise refusal("file missing", recipe=self.recipe, glob=glob, there=there)
        return found

    def one(self, name: str) -> Path:
        """Return the file of this name that lies least deep."""
        return min(self.many(name), key=lambda path: (len(path.parts), str(path)))
