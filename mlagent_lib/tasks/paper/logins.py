"""Which Kaggle login is there: its place, never its value.

Both styles are known: the user name and key (``kaggle.json``, or ``KAGGLE_USERNAME`` and ``KAGGLE_KEY``) and
the newer token (``KAGGLE_API_TOKEN``, ``~/.kaggle/access_token``, or ``kaggle auth login``). The clients read
the secrets themselves; here they are only found.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mlagent_lib.tasks.refusals import refusal

SETTINGS = "https://www.kaggle.com/settings/api"
CURE = (
    f"make a token at {SETTINGS} and set KAGGLE_API_TOKEN or save it as ~/.kaggle/access_token; a "
    "kaggle.json in ~/.kaggle, or KAGGLE_USERNAME and KAGGLE_KEY, work as well"
)


def config_folder() -> Path:
    """Return the folder of Kaggle's files: ``KAGGLE_CONFIG_DIR``, ``~/.kaggle``, or the one of XDG."""
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(os.environ["KAGGLE_CONFIG_DIR"])
    usual = Path.home() / ".kaggle"
    if usual.exists():
        return usual
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"


def find_login() -> str:
    """Return where the login lies, in the order in which the clients look.

    Raises:
        TaskError: There is none; only one half of a pair is set; ``kaggle.json`` is damaged.
    """
    home = Path.home() / ".kaggle"
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the variable KAGGLE_API_TOKEN"
    for name in ("access_token", "access_token.txt"):
        if _is_filled(home / name):
            return f"~/.kaggle/{name}"
    given = [name for name in ("KAGGLE_USERNAME", "KAGGLE_KEY") if os.environ.get(name)]
    if len(given) == 2:
        return "the variables KAGGLE_USERNAME and KAGGLE_KEY"
    folder = config_folder()
    if (folder / "kaggle.json").is_file():
        _check_pair(folder / "kaggle.json")
        return "kaggle.json"
    if given:
        other = "KAGGLE_KEY" if given == ["KAGGLE_USERNAME"] else "KAGGLE_USERNAME"
        raise refusal("half a login", given=given[0], other=other, cure=CURE)
    if _is_filled(home / "credentials.json"):
        return "the login of `kaggle auth login`"
    if "google.colab" in sys.modules:
        return "the secrets of this Colab"
    raise refusal("no login", cure=CURE)


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _check_pair(path: Path) -> None:
    try:
        pair = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(pair, dict) and bool(pair.get("username")) and bool(pair.get("key"))
    except (ValueError, OSError):
        whole = False
    if not whole:
        raise refusal("damaged login", settings=SETTINGS)
