"""Which backend runs here, how it is made ready, and how a model is loaded with it.

Unsloth changes Transformers, PEFT and TRL while it is imported. Where one of them came first, the change is
half made and training goes wrong in silence, so that is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.profiles import Loading
from mlagent_lib.core.provenance import versions
from mlagent_lib.training.backends.backend import Backend
from mlagent_lib.training.backends.weights import model_path

PATCHED = ("transformers", "peft", "trl")  # what Unsloth changes while it is imported
_OLDEST_CARD = (7, 0)  # compute capability; Unsloth's documentation: V100, T4 and later


def choose(name: str = "auto") -> str:
    """Return the backend to use: ``auto`` is Unsloth where CUDA and the package are there, else plain.

    Raises:
        MlagentError: The name is unknown, or Unsloth was asked for and cannot run here.
    """
    if name == "plain":
        return name
    if name not in ("auto", "unsloth"):
        raise MlagentError(f"backend {name!r} is unknown", cure="choose auto, plain or unsloth")
    missing = _missing_for_unsloth()
    if missing and name == "unsloth":
        raise MlagentError(
            f"backend 'unsloth' cannot run here: {missing[0]}", cure=f"{missing[1]}, or choose backend plain"
        )
    return "plain" if missing else "unsloth"


def _missing_for_unsloth() -> tuple[str, str] | None:
    """Return what Unsloth lacks here and what helps; None where it can run."""
    if importlib.util.find_spec("unsloth") is None:
        return "the package unsloth is not installed", "install the extra 'unsloth' on a machine with CUDA"
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device is visible", "use a GPU runtime"
    if torch.cuda.get_device_capability() < _OLDEST_CARD:
        old = torch.cuda.get_device_name()
        return f"the card {old} is older than it supports", "use a T4 or a later card"
    return None


def prepare(loading: Loading | str = "auto") -> str:
    """Return the backend to use (see `choose`), Unsloth imported where it is the one; call it first."""
    chosen = choose(_as_loading(loading).backend)
    if chosen == "unsloth":
        _import_unsloth()
    return chosen


def _import_unsloth() -> None:
    if "unsloth" in sys.modules:
        return
    if early := [name for name in PATCHED if name in sys.modules]:
        were = "was" if len(early) == 1 else "were"
        raise RunError(
            f"{' and '.join(early)} {were} imported before unsloth, which must change them as they load",
            cure="restart the kernel and run the notebook from its first cell (open_lab imports unsloth), "
            "or choose backend plain",
        )
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it reports its use to a server otherwise
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(_compiled()))
    try:
        importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise MlagentError(
            f"the package unsloth is installed but cannot be imported: {error}",
            cure="install the versions of the extra 'unsloth', or choose backend plain",
        ) from error


def _compiled() -> Path:
    """Return where Unsloth keeps the trainers it writes: a stale one of other versions breaks training."""
    packages = ("unsloth", "trl", "transformers")
    found = versions(packages)
    return Path.home() / ".cache/mlagent/unsloth" / "-".join(found.get(name, "none") for name in packages)


def load(
    name: str = "pocket",
    *,
    backend: str | Loading = "auto",
    adapter: Path | str | None = None,
    trainable: bool = False,
) -> Backend:
    """Return a `Backend` with the model loaded, and an adapter on it when one is given.

    Args:
        name: ``pocket``, ``smollm2``, a ``.gguf`` file, a folder, or a name on a hub.
        backend: How to load it: a profile's `Loading`, or only ``auto``, ``plain`` or ``unsloth``.
        trainable: Whether the adapter shall be trained further.

    Raises:
        MlagentError: The backend cannot run here, or weights are missing.
    """
    loading = _as_loading(backend)
    if prepare(loading) == "unsloth":
        from mlagent_lib.training.backends.unsloth import UnslothBackend as kind
    else:
        from mlagent_lib.training.backends.plain import PlainBackend as kind
    return kind.load(model_path(name), loading, adapter=adapter, trainable=trainable)


def _as_loading(loading: Loading | str) -> Loading:
    """Return the loading itself, or the defaults for a backend's name, which `choose` checks."""
    if isinstance(loading, Loading):
        return loading
    choose(loading)
    return Loading(backend=loading)
