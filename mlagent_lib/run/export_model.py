"""A trained policy as files for others: the adapter, merged weights, or GGUF, with a model card.

It changes nothing in the run. Files appear in the target folder only when all of them are whole.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from mlagent_lib.core.artifacts import damaged_file, hashes_below, read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import check_free_space, explained, sha256_file, write_json, write_text
from mlagent_lib.run.actors import find_adapter
from mlagent_lib.run.model_card import Origin, model_card

KINDS = ("adapter", "merged", "gguf")
RECORD = "training_manifest.json"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_POLICIES = {"02_sft": "sft", "03_grpo": "rl"}


def export_model(source: str | Path, kind: str, out: str | Path, *, quantization: str = "q8_0") -> Path:
    """Return the folder that was written: weights, model card, and the manifest of the training.

    Args:
        source: Folder of an adapter, or of a run for its RL adapter.
        kind: ``adapter``, ``merged`` (16 bits a weight, by PEFT) or ``gguf`` (by Unsloth, on a GPU).
        out: A folder that does not exist yet.
        quantization: Of ``gguf``: ``f16``, ``q8_0``, ``q4_k_m`` and the other names of llama.cpp.

    Raises:
        RunError: There is no adapter, it is damaged, the folder exists, or the kind is unknown.
        MlagentError: The model cannot be loaded, or GGUF cannot be made here.
    """
    if kind not in KINDS:
        raise RunError(f"an export to {kind!r} is unknown", cure=f"choose one of {', '.join(KINDS)}")
    out = Path(out)
    if out.exists():
        raise RunError(f"{out} exists already", cure="choose another folder with --out, or remove this one")
    if not Path(source).is_dir():
        raise RunError(f"{source} is no folder", cure="give the folder of a run or of an adapter")
    adapter = find_adapter(str(Path(source).absolute()), None)
    origin = origin_of(adapter)
    if kind == "gguf":
        _check_gguf(origin)
    check_free_space(out)
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _WRITERS[kind](adapter, origin, folder, quantization)
        if origin.manifest is not None:
            write_json(folder / RECORD, dict(origin.manifest))
        write_text(folder / "README.md", model_card(origin, kind))
        folder.chmod(0o755)  # mkdtemp's are for their owner only
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out


def origin_of(adapter: Path) -> Origin:
    """Return what the records beside an adapter say of it.

    Args:
        adapter: Its folder; the stage of a run that made it is the folder around.

    Raises:
        RunError: It is not what its stage wrote, or its configuration cannot be read.
    """
    stage, manifest = adapter.parent, read_manifest(adapter.parent)
    if manifest is not None:
        prefix = f"{adapter.name}/"
        written = {
            name.removeprefix(prefix): entry["sha256"]
            for name, entry in manifest["outputs"].items()
            if name in (prefix + _WEIGHTS, prefix + _CONFIG)
        }
        if lost := damaged_file(adapter, written):
            raise RunError(
                f"{adapter / lost} is not what the run wrote",
                cure="take the adapter from another copy, or make the run again",
            )
        if not written:
            manifest = None  # a folder that somebody put beside: its stage says nothing of it
    config = _read_config(adapter)
    base, digest = _base_name(config, manifest), sha256_file(adapter / _WEIGHTS)
    is_known = manifest is not None
    return Origin(
        base, config["r"], config["lora_alpha"], digest,
        run=stage.resolve().parent.name if is_known else "",
        manifest=manifest,
        collection=read_manifest(stage.parent / "01_collection") if is_known else None,
        results=_results(stage, f"{stage.name}/{adapter.name}/{_WEIGHTS}", digest) if is_known else (),
        card_of_base="its card is in the kit: training/pocket_model/README.md" if base == "pocket" else "",
    )  # fmt: skip


def _read_config(adapter: Path) -> dict:
    try:
        config = json.loads((adapter / _CONFIG).read_text(encoding="utf-8"))
        config["r"], config["lora_alpha"]
    except (ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{adapter / _CONFIG} is no configuration of a LoRA adapter: {error}",
            cure="give the folder that PEFT's save_pretrained wrote",
        ) from error
    return config


def _base_name(config: dict, manifest: dict | None) -> str:
    """Return the name of the base model: the profile's, else the configuration's without a path of ours."""
    named = (manifest["profile"] or {}).get("model") if manifest else None
    recorded = str(config.get("base_model_name_or_path") or "")
    name = named or recorded
    if not name:
        raise RunError(
            "the adapter does not say what its base model is",
            cure=f"write its name into base_model_name_or_path of {_CONFIG}",
        )
    if Path(name).name == "pocket_model":
        return "pocket"
    return Path(name).name if Path(name).is_absolute() else name


def _results(stage: Path, weights: str, digest: str) -> list[dict]:
    """Return the rows of the run's evaluation that concern an adapter, if it evaluated this very one."""
    folder, policy = stage.parent / "04_evaluation", _POLICIES.get(stage.name)
    manifest = read_manifest(folder)
    read = (manifest or {}).get("inputs", {}).get(weights, {}).get("sha256")
    if policy is None or read != digest or stage_problem(folder) is not None:
        return []
    import pandas as pd

    frame = pd.read_csv(folder / "overall.csv")
    return frame[frame["policy"].isin(["starter", "base", policy])].to_dict("records")


def _base_path(adapter: Path, origin: Origin) -> str:
    """Return what the base model is loaded from: its name, or the folder that the adapter was trained on."""
    if origin.base == "pocket" or "/" in origin.base:
        return origin.base
    return str(_read_config(adapter)["base_model_name_or_path"])


def _write_adapter(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    shutil.copyfile(adapter / _WEIGHTS, folder / _WEIGHTS)
    if hashes_below(folder) != {_WEIGHTS: origin.sha256}:
        raise RunError(f"the copy of {adapter / _WEIGHTS} is damaged", cure="check the disk, then try again")
    config = _read_config(adapter)
    base = str(config.get("base_model_name_or_path") or origin.base)
    if Path(base).is_absolute():  # a path of this machine: only its last name helps elsewhere
        config["base_model_name_or_path"] = Path(base).name
    write_json(folder / _CONFIG, config)


def _write_merged(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    from mlagent_lib.training.backends import load

    load(_base_path(adapter, origin), backend="plain", adapter=adapter).merge(folder)


def _check_gguf(origin: Origin) -> None:
    """Raise where GGUF cannot be made, before anything is loaded."""
    from mlagent_lib.training.backends import choose

    if origin.base == "pocket":
        raise RunError(
            "the pocket model cannot become GGUF: llama.cpp does not know its tokenizer",
            cure="export it with --to merged, or train a Qwen2.5",
        )
    choose("unsloth")


def _write_gguf(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    from mlagent_lib.training.backends import load

    loaded = load(_base_path(adapter, origin), backend="unsloth", adapter=adapter)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as work:
        # Unsloth merges into the folder, and writes the files into another one beside it
        made = loaded.model.save_pretrained_gguf(
            str(Path(work) / "model"), loaded.tokenizer, quantization_method=quantization
        )
        files = (made or {}).get("gguf_files") or []
        if not files:
            raise RunError(
                "Unsloth wrote no GGUF file",
                cure="read what it printed above; it needs network and a compiler for llama.cpp",
            )
        for file in files:
            shutil.move(str(file), folder / Path(file).name)


_WRITERS = {"adapter": _write_adapter, "merged": _write_merged, "gguf": _write_gguf}
