"""``mlagent view``: the trajectories of a run as one HTML page to browse."""

from __future__ import annotations

import argparse
from typing import Any

HELP = """\
Writes one HTML page with every trajectory of a run: filter by policy, task, split, file, outcome and reward,
search, step through with buttons or arrow keys, the changed lines of each edit, feedback folded, the line of
scores. The page needs no network and no other file: it can be sent by mail.

examples:
  mlagent view runs/laptop-seed0                     writes runs/laptop-seed0/view.html
  mlagent view runs/laptop-seed0 --open              and opens it in the browser
  mlagent view runs/laptop-seed0 --out page.html     into a file of your choice
  mlagent view runs/laptop-seed0/04_evaluation/trajectories.jsonl     one file alone

In a notebook: from mlagent_lib.view import widget; widget("runs/laptop-seed0", policies=["sft", "rl"])"""
NAMED = 5


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    view = commands.add_parser(
        "view", help="browse the trajectories of a run", formatter_class=plain, description=HELP
    )
    view.add_argument("run", metavar="RUN", help="folder of a run, or one trajectory file")
    view.add_argument("--out", metavar="FILE", help="the page; default view.html in the folder of the run")
    view.add_argument("--open", action="store_true", help="open the page in the browser")
    view.set_defaults(call=_view)


def _view(arguments: argparse.Namespace) -> int:
    from mlagent_lib.view import write_page

    written = write_page(arguments.run, arguments.out)
    print(written)
    for problem in written.problems[:NAMED]:
        print(f"  left out: {problem}")
    if len(written.problems) > NAMED:
        print(f"  and {len(written.problems) - NAMED:,} more: the page names them")
    if not written.trajectories:
        print(f"  {written.empty}")
    if arguments.open:
        import webbrowser

        if not webbrowser.open(written.path.resolve().as_uri()):
            print("  no browser was found here: open the file by hand")
    return 0
