"""``mlagent docs``: the docstrings as HTML pages, made by pdoc."""

from __future__ import annotations

import argparse
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.core.files import write_text

EXTRAS = ("code-friendly", "cuddled-lists", "fenced-code-blocks", "pyshell", "toc")  # of markdown2; no links
_TO_PRIVATE = re.compile(r'<a href="[^"]*#(?:[^"]*\.)?_[^"]*">(.*?)</a>')  # of a base class: not shown


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent docs`` say."""
    print(f"{arguments.out}/index.html: {write_docs(arguments.out)} modules")


def write_docs(out: str | Path, package: str = "mlagent_lib") -> int:
    """Write ``index.html`` and one page a module into ``out``; return the number of modules.

    The pages hold no script, and what a docstring says stays text: pdoc itself would take it for HTML.

    Args:
        out: Folder; made when missing.
        package: Its name; it is imported, with all its modules but those of an extra that is not installed.

    Raises:
        MlagentError: pdoc is not installed.
    """
    try:
        import markdown2
        import pdoc
    except ImportError as error:
        cure = "pip install -e '.[docs]'"
        raise MlagentError("the pages are made by pdoc, which is not installed", cure=cure) from error

    from mlagent_lib.results.show import visible

    pdoc.render.configure(docformat="google", search=False, show_source=False)
    pdoc.render.env.filters["to_html"] = partial(markdown2.markdown, extras=EXTRAS, safe_mode="escape")
    inner = walk_packages(import_module(package).__path__, f"{package}.")
    names = [package, *(found.name for found in inner if "._" not in found.name)]
    modules = {name: pdoc.doc.Module.from_name(name) for name in names if _is_usable(name, package)}
    for name, module in modules.items():
        page = _TO_PRIVATE.sub(r"\1", pdoc.render.html_module(module, modules))
        write_text(Path(out) / f"{name.replace('.', '/')}.html", visible(page))
    write_text(Path(out) / "index.html", pdoc.render.html_index(modules))
    return len(modules)


def _is_usable(name: str, package: str) -> bool:
    """Return whether a module can be imported: those of an extra that is not installed are left out."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or package).partition(".")[0] == package:
            raise
        return False
    return True
