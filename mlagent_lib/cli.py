"""The command ``mlagent``: reads the command line, calls the library, explains errors. No logic of its own.

Help and options of the commands are data, ``commands/commands.toml``; what each does is in the module of its
name in `mlagent_lib.commands`, which is loaded when it is asked for.

Exit codes: 0 done; 1 a notebook failed, or a check found something; 2 wrong input, with one line that says
what to do. An unexpected error keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mlagent_lib import __version__
from mlagent_lib.core.errors import MlagentError

COMMANDS = Path(__file__).with_name("commands") / "commands.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The words after ``mlagent``; those of this process where not given.

    Example:
        >>> main(["profiles", "lapto"])
        2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args([_with_home(word) for word in words])
        return import_module(f"mlagent_lib.commands.{arguments.module}").call(arguments) or 0
    except MlagentError as error:
        print(f"mlagent: {' '.join(str(error).split())}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("\nmlagent: stopped; start the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `mlagent tasks list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _with_home(word: str) -> str:
    """Return a word with the home folder in place of ``~/``, which no shell expands behind an option's ``=``.

    Example:
        >>> _with_home("--out=~/page.html") == "--out=" + _with_home("~/page.html"), _with_home("~")
        (True, '~')
    """
    option, place = re.fullmatch(r"(--[a-z-]+=)?(.*)", word, re.DOTALL).groups("")
    return option + (os.path.expanduser(place) if place.startswith("~/") else place)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mlagent",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Reproduce ML-Agent (arXiv 2505.23723), from a laptop without a GPU to one large card.",
        epilog="start with: mlagent run          each command explains itself: mlagent COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"mlagent-kit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, tomllib.loads(COMMANDS.read_text(encoding="utf-8")))
    return parser


def _add(commands: Any, known: Mapping[str, Mapping], prefix: str = "") -> None:
    """Add commands to a parser; a command that has verbs has further commands below it."""
    for name, words in known.items():
        told = {"help": words["summary"], "description": words.get("text")}
        parser = commands.add_parser(name, **told, formatter_class=argparse.RawDescriptionHelpFormatter)
        module = prefix + name.replace("-", "_")
        parser.set_defaults(module=module)
        if "verbs" in words:
            verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
            _add(verbs, words["verbs"], f"{module}_")
        _add_options(parser, words.get("options", {}))


def _add_options(parser: argparse.ArgumentParser, options: Mapping[str, Mapping]) -> None:
    """Add options to a parser, those that name a group in one with that title."""
    groups: dict[str, Any] = {"": parser}
    for name, option in options.items():
        words = dict(option)
        title = words.pop("group", "")
        if title == "one of these" and title not in groups:
            groups[title] = parser.add_mutually_exclusive_group(required=True)
        elif title not in groups:
            groups[title] = parser.add_argument_group(title)
        if "type" in words:
            words["type"] = _TYPES[words["type"]]
        groups[title].add_argument(name, **words)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _size(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("give a number above 0")
    return value


def _path(text: str) -> Path | None:
    return Path(text) if text else None


_TYPES = {"int": int, "float": float, "count": _count, "size": _size, "path": _path}
