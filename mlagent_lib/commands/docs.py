"""``mlagent docs``: the docstrings as HTML pages."""

from __future__ import annotations

import argparse
from typing import Any

HELP = """\
Writes the docstrings of the package as HTML: an index and one page a module, with links between them. The
pages need no network and no server.

example:
  mlagent docs --out docs                then open docs/index.html"""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "docs", help="the docstrings as HTML pages", formatter_class=plain, description=HELP
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the pages")
    parser.set_defaults(call=_docs)


def _docs(arguments: argparse.Namespace) -> int:
    from mlagent_lib.commands.docstrings import write_docs

    count = write_docs(arguments.out)
    print(f"{arguments.out}/index.html: {count} modules")
    return 0
