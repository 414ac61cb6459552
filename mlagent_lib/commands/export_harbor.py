"""``mlagent export-harbor``: a task as a folder that Harbor runs."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent export-harbor`` say."""
    from mlagent_lib.sockets.harbor import export_harbor
    from mlagent_lib.tasks.registry import find_task

    print(export_harbor(find_task(arguments.task), arguments.out))
