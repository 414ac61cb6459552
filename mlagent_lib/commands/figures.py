"""``mlagent figures``: the committed figures drawn again, or made from finished runs."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent figures`` say."""
    from mlagent_lib.results.figures import redraw_all
    from mlagent_lib.run.notebooks import notebooks_folder

    folder = arguments.folder or notebooks_folder().parent / "figures"
    if arguments.runs or arguments.readme:
        from mlagent_lib.bench.against import against_lines
        from mlagent_lib.bench.measure import speed_lines
        from mlagent_lib.run.publish import publish, refresh_documents

        if arguments.runs:
            publish(arguments.runs, folder)
            print(f"{folder}: made from {len(arguments.runs)} runs")
            if arguments.folder:  # another place than the READMEs speak of
                return 0
        speed = {"speed": lambda: speed_lines(folder), "against": lambda: against_lines(folder)}
        for place in refresh_documents(folder.parent, folder, speed):
            print(f"{folder.parent / place}: tables brought up to date")
        return 0
    if arguments.folder:
        changed = redraw_all(folder, check=arguments.check)
    else:
        from mlagent_lib.results.arm_figures import build
        from mlagent_lib.run.publish import derive, published_folders

        changed = []
        for own in published_folders(folder):
            found = redraw_all(own, check=arguments.check) + derive(own, check=arguments.check)
            changed += [(own / name).relative_to(folder).as_posix() for name in found]
        changed += [f"ablations/{name}" for name in build(folder / "ablations", check=arguments.check)]
    for name in changed:
        print(f"{name}: {'would change' if arguments.check else 'redrawn'}")
    if not changed:
        print(f"all figures in {folder} are what their CSV files give")
    return 1 if changed and arguments.check else 0
