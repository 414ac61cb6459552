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
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.paper.recipes import Recipe

_ENDINGS = (".zip", ".tar.gz", ".tgz", ".tar", ".7z")
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


class DamagedArchive(TaskError):
    """An archive cannot be read to its end."""

    def __init__(self, path: Path):
        super().__init__(
            f"{path.name} is damaged: it cannot be read to its end",
            cure="the damaged download was put away: start the same command again to fetch it anew; with "
            "--from, fetch the file again yourself",
        )


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise a `TaskError` where the disk of ``folder``, which may not exist yet, lacks the bytes needed."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise TaskError(
            f"not enough disk space: {what} needs some {needed / 1e6:.0f} MB below {folder}, "
            f"{free / 1e6:.0f} MB are free",
            cure="free some space, or set MLAGENT_HOME to a folder on another disk",
        )


def disk_full(error: OSError, folder: Path) -> TaskError | None:
    """Return the error to raise where ``error`` says that the disk is full, else None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return TaskError(
        f"the disk of {folder} became full",
        cure="free some space, or set MLAGENT_HOME to a folder on another disk, and start again",
    )


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
        raise TaskError(
            f"{archive.name} holds a path that leaves its folder ({member!r})",
            cure="do not use this file; download the data from its own page",
        )
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
        raise DamagedArchive(archive) from error
    except OSError as error:
        full = disk_full(error, into)
        if full or isinstance(error, FileNotFoundError):
            raise full or error from error
        raise DamagedArchive(archive) from error  # gzip reports a bad header and a bad checksum so


def _unpack_zip(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    with zipfile.ZipFile(archive) as opened:
        # Of an archive that was cut off, zipfile would read the last whole archive inside as if it were it.
        if min((info.header_offset for info in opened.infolist()), default=0) != 0:
            raise zipfile.BadZipFile("does not begin with its first member")
        members = [
            info for info in opened.infolist() if not info.is_dir() and wanted(_safe(info.filename, archive))
        ]
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
        raise TaskError(
            f"{archive.name} is a 7z archive, and no reader for it is installed",
            cure="pip install py7zr, or unpack the file yourself and give its folder with --from",
        ) from error
    try:
        with py7zr.SevenZipFile(archive) as opened:
            members = [name for name in opened.getnames() if wanted(_safe(name, archive))]
            opened.extract(path=into, targets=members)
    except py7zr.exceptions.ArchiveError as error:
        raise DamagedArchive(archive) from error


class Files:
    """The files of a download that a recipe needs.

    Args:
        source: The downloaded archive, or a folder with archives or files.
        work: A folder for what is unpacked; thrown away by the caller afterwards.
        found: The recipe.

    Raises:
        TaskError: See `unpack`; or a needed file is in none of the archives.
    """

    def __init__(self, source: Path, work: Path, found: Recipe):
        self.recipe, self.roots = found, [work]
        # A single file of a competition may come as <file>.zip.
        single = tuple(f"{glob}{end}" for glob in found.files for end in (".zip", ".7z"))
        inner = found.archives + single
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

    def _matching(self, glob: str) -> Iterator[Path]:
        seen = set()
        for root in self.roots:
            for path in self._below(root):
                if path not in seen and path.match(glob):
                    seen.add(path)
                    yield path

    def many(self, glob: str) -> list[Path]:
        """Return the files whose path ends as the glob says, at least one.

        Raises:
            TaskError: There is none.
        """
        found = list(self._matching(glob))
        if not found:
            names = [path.name for root in self.roots for path in self._below(root)]
            there = ", ".join(sorted(set(names))[:8]) or "nothing that is needed"
            raise TaskError(
                f"{self.recipe.name}: {glob} is missing in the download (found: {there})",
                cure=f"compare with the data page of {self.recipe.page}; with --from, give the archive or "
                "folder as it was downloaded",
            )
        return found

    def one(self, name: str) -> Path:
        """Return the file of this name that lies least deep.

        Raises:
            TaskError: There is none.
        """
        return min(self.many(name), key=lambda path: (len(path.parts), str(path)))
