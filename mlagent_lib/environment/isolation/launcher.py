"""Starts the warm server inside bubblewrap, waits for its end, and removes its folder from outside.

Run as ``python -s -B launcher.py FOLDER ARGUMENTS COMMAND...``: FOLDER is the server's, ARGUMENTS the number
of the descriptor from which bubblewrap reads its own arguments. Standard input and output belong to the
server. When this process is killed, the kernel kills bubblewrap and with it everything inside.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Launch one server, and stay until it has ended."""
    import run_folder  # run as a script, so this folder is the first place where modules are looked for

    folder, arguments, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    pid = os.fork()
    if pid == 0:
        try:
            os.set_inheritable(arguments, True)
            os.execv(command[0], command)
        finally:
            os._exit(127)
    os.close(arguments)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)  # the end of the requests must reach nobody but the server
    os.waitpid(pid, 0)
    run_folder.remove_of_server(folder)


if __name__ == "__main__":
    main()
