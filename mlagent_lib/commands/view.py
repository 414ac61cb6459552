"""``mlagent view``: the trajectories of a run as one HTML page to browse."""

from __future__ import annotations

import argparse

NAMED = 5


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent view`` say."""
    from mlagent_lib.results.browser import write_page

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
