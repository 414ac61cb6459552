"""What every run may read: the interpreter and its libraries, without the data that libraries bring along.

Looking the test rows up in a public copy scores 1.0 even after noise, so the folders in which libraries keep
data sets are taken out. Landlock can only add rights below a folder; `allow_tree` therefore grants the
neighbours of everything that is denied, one by one, along the denied paths only.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable

# folders that libraries use for data: inside them only code stays readable
_DATA_FOLDERS = frozenset(
    ["data", "_data", "dataset", "datasets", "sample_data", "sampledata", "test_data", "testdata"]
    + ["package_data", "examples"]
)
# folders denied whole as soon as they hold anything but code
_TEST_FOLDERS = frozenset({"test", "tests"})
_CODE = (".py", ".pyi", ".pyx", ".pxd", ".so", ".typed", ".sh")
# folders denied as a whole, code included: the language's topic texts and its own test data
_DENIED_STDLIB = ("pydoc_data", "test", "idlelib", "site-packages", "dist-packages")
# of the folders of shared libraries only these: beside them lie other interpreters with their own data
_LIBRARY_FOLDERS = ("-linux-gnu", "-linux-musl", "-linux-gnueabihf", "locale", "ssl", "gconv")

_SYSTEM_TREES = (
    "/bin", "/usr/bin", "/usr/local/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd",
    "/etc/nsswitch.conf", "/etc/fonts", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/usr/share/zoneinfo",
    "/usr/share/locale", "/usr/share/fonts", "/usr/share/fontconfig", "/sys/devices/system/cpu",
    "/sys/fs/cgroup", "/proc", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
_LIBRARY_ROOTS = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib")


def allow_tree(root: str, deny: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (folders and files to grant whole, folders to list only) so that ``deny`` stays closed.

    Names below ``root`` can still be listed, also those of denied folders; contents cannot be read. Symbolic
    links are never granted: the kernel judges a link by its target.

    Args:
        root: An existing folder or file, without symbolic links in its path.
        deny: Paths to leave out; those not below ``root`` are ignored.

    Example:
        >>> import tempfile, pathlib
        >>> base = pathlib.Path(tempfile.mkdtemp()).resolve()
        >>> for name in ("code", "lib/data", "lib/inner"):
        ...     (base / name).mkdir(parents=True)
        >>> grants, _ = allow_tree(str(base), [str(base / "lib/data")])
        >>> sorted(g.removeprefix(f"{base}/") for g in grants)
        ['code', 'lib/inner']
    """
    # a denied path inside a denied folder must go, else that folder would count as on the way and be walked
    denied = set(_without_nested([d for d in deny if d == root or d.startswith(root + os.sep)]))
    if root in denied:
        return [], []
    if not denied:
        return [root], []
    on_the_way = set()
    for path in denied:
        while path != root:
            path = os.path.dirname(path)
            on_the_way.add(path)
    grants, todo = [], [root]
    while todo:
        for entry in _entries(todo.pop()):
            if entry.path in on_the_way and not entry.is_symlink():
                todo.append(entry.path)
            elif entry.path not in denied and not entry.is_symlink():
                grants.append(entry.path)
    return grants, [root]


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except OSError:
        return []


def bundled_data(root: str) -> list[str]:
    """Return what to deny below a folder of packages: every non-code file in a folder made for data.

    A folder without any code is returned whole, so the list stays short. `import sklearn.datasets` keeps
    working (its modules are code), `load_digits()` does not.
    """
    ours = os.path.join(root, "mlagent_lib")
    return _find_data(root, False)[1] + ([ours] if os.path.isdir(ours) else [])


def _find_data(folder: str, in_data: bool) -> tuple[bool, list[str]]:
    """Return whether a folder holds any code, and what is denied of it."""
    has_code, denied = False, []
    for entry in _entries(folder):
        if entry.is_symlink() or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            is_test = entry.name in _TEST_FOLDERS
            holds_code, inner = _find_data(entry.path, is_test or in_data or entry.name in _DATA_FOLDERS)
            has_code |= holds_code
            denied += [entry.path] if is_test and inner else inner
        elif entry.name.endswith(_CODE) or ".so." in entry.name:
            has_code = True
        elif in_data:
            denied.append(entry.path)
    return has_code, [folder] if in_data and not has_code else denied


def site_folders() -> list[str]:
    """Return the package folders of this interpreter, where numpy and the others are imported from."""
    known = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        known.add(site.getusersitepackages())
    named = {p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")}
    folders = [p for p in sys.path if p in known | named] + sorted(known)
    return list(dict.fromkeys(os.path.realpath(p) for p in folders if os.path.isdir(p)))


def standard_folders() -> list[str]:
    """Return the folders of the standard library, as they stand in ``sys.path`` of a bare interpreter."""
    stdlib = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    dynload = {os.path.join(p, "lib-dynload") for p in stdlib}
    return sorted(os.path.realpath(p) for p in stdlib | dynload if os.path.isdir(p))


@functools.lru_cache(maxsize=1)
def readable() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (trees, listings) that every run on this machine may read, found once per process."""
    denied = [(folder, bundled_data(folder)) for folder in site_folders()]
    denied += [(top, [os.path.join(top, name) for name in _DENIED_STDLIB]) for top in standard_folders()]
    trees: list[str] = []
    listings: list[str] = []
    for folder, deny in denied:
        granted, listed = allow_tree(folder, deny)
        trees += granted
        listings += listed
    prefixes = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    roots = {os.path.realpath(p) for p in (*_LIBRARY_ROOTS, *(os.path.join(p, "lib") for p in prefixes))}
    for root in sorted(roots):
        listings.append(root)
        trees += [e.path for e in _entries(root) if e.name.endswith(_LIBRARY_FOLDERS) or ".so" in e.name]
    for prefix in prefixes:
        trees += [os.path.join(prefix, "bin"), os.path.join(prefix, "pyvenv.cfg")]
    trees += [os.path.realpath(p) for p in _SYSTEM_TREES]
    existing = [p for p in dict.fromkeys(trees) if os.path.exists(p)]
    return tuple(_without_nested(existing)), tuple(p for p in dict.fromkeys(listings) if os.path.isdir(p))


def _without_nested(paths: list[str]) -> list[str]:
    """Leave out what an earlier grant already covers."""
    whole = set(paths)
    return [p for p in paths if not any(parent in whole for parent in _parents(p))]


def _parents(path: str) -> list[str]:
    found = []
    while (path := os.path.dirname(path)) not in ("/", ""):
        found.append(path)
    return found


def import_path() -> list[str]:
    """Return ``sys.path`` for the warm server: the standard library, then the packages, nothing of ours."""
    return list(dict.fromkeys([*standard_folders(), *site_folders()]))
