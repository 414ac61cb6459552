"""A trained policy as files for others: the adapter, merged weights, or GGUF, with a model card.

It changes nothing in the run. Files appear in the target folder only when all of them are whole. The card is
filled from manifests, no model loaded; what no record says is said to be missing, never guessed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.artifacts import damaged_file, hashes_below, read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import check_free_space, explained, sha256_file, write_json, write_text
from mlagent_lib.results.style import plain_interval
from mlagent_lib.run.agent import find_adapter
from mlagent_lib.run.stages import CONFIG, TRAJECTORIES, WEIGHTS

KINDS = {  # what an export is, and the library that loads it
    "adapter": ("A LoRA adapter: to be put on its base model, whose weights are not in this folder.", "peft"),
    "merged": ("The base model with the LoRA adapter merged into it, 16 bits a weight.", "transformers"),
    "gguf": ("The base model with the LoRA adapter merged into it, in the format of llama.cpp.", "llama.cpp"),
}
TRAINED = {  # what a stage trains: policy, section of the profile, how it is spoken of, its settings
    "02_sft": (
        *("sft", "sft", "exploration-enriched fine-tuning (SFT)"),
        "{epochs:g} epochs, batch {batch}, learning rate {lr:g}",
    ),
    "03_grpo": (
        *("rl", "grpo", "SFT, then step-wise GRPO"),
        "{steps} steps of {states_per_step} states and {group_size} actions each, learning rate {lr:g}, "
        "KL {beta:g}, reward {reward_form}",
    ),
}
UNKNOWN = "not recorded: no manifest was beside the adapter"
CARD = Path(__file__).with_name("model_card.md.jinja")
RECORD = "training_manifest.json"
_PACKAGES = ("python", "torch", "transformers", "trl", "peft", "unsloth")


@dataclass(frozen=True)
class Origin:
    """What is known of an adapter.

    Attributes:
        base: Name of its base model; of a local folder only the last name.
        rank: r of the LoRA.
        alpha: Scale of the LoRA.
        sha256: Of ``adapter_model.safetensors``.
        run: Name of the run, "" where unknown.
        manifest: Of the stage that trained it, None where there is none.
        collection: Of the stage that collected its data, likewise.
        results: Rows of the evaluation's ``overall.csv``, where it evaluated this very adapter.
        card_of_base: Where the card of a base model lies that this kit made; "" for others.
    """

    base: str
    rank: int
    alpha: int
    sha256: str
    run: str = ""
    manifest: Mapping | None = None
    collection: Mapping | None = None
    results: Sequence[Mapping] = ()
    card_of_base: str = ""


def export_model(source: str | Path, kind: str, out: str | Path, *, quantization: str = "q8_0") -> Path:
    """Return the folder that was written: weights, model card, and the manifest of the training.

    Args:
        source: Folder of an adapter, or of a run for its RL adapter.
        kind: ``adapter``, ``merged`` (16 bits a weight, by PEFT) or ``gguf`` (on a GPU by Unsloth, else
            by `write_gguf`).
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
    stage, manifest, known = adapter.parent, read_manifest(adapter.parent), {}
    outputs = manifest["outputs"] if manifest else {}
    names = {name: f"{adapter.name}/{name}" for name in (WEIGHTS, CONFIG)}
    written = {name: outputs[place]["sha256"] for name, place in names.items() if place in outputs}
    if lost := damaged_file(adapter, written):
        cure = "take the adapter from another copy, or make the run again"
        raise RunError(f"{adapter / lost} is not what the run wrote", cure=cure)
    config, digest = _read_config(adapter), sha256_file(adapter / WEIGHTS)
    if written:  # else a folder that somebody put beside: its stage says nothing of it
        known = {"run": stage.resolve().parent.name, "manifest": manifest}
        known["collection"] = read_manifest(stage.parent / "01_collection")
        known["results"] = _results(stage, f"{stage.name}/{names[WEIGHTS]}", digest)
    base = _base_name(config, known.get("manifest"))
    card = "its card is in the kit: training/pocket_model/README.md" if base == "pocket" else ""
    return Origin(base, config["r"], config["lora_alpha"], digest, card_of_base=card, **known)


def _read_config(adapter: Path) -> dict:
    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        config["r"], config["lora_alpha"]
    except (ValueError, LookupError, TypeError) as error:
        message = f"{adapter / CONFIG} is no configuration of a LoRA adapter: {error}"
        raise RunError(message, cure="give the folder that PEFT's save_pretrained wrote") from error
    return config


def _base_name(config: dict, manifest: dict | None) -> str:
    """Return the name of the base model: the profile's, else the configuration's without a path of ours."""
    named = (manifest["profile"] or {}).get("model") if manifest else None
    recorded = str(config.get("base_model_name_or_path") or "")
    name = named or recorded
    if not name:
        cure = f"write its name into base_model_name_or_path of {CONFIG}"
        raise RunError("the adapter does not say what its base model is", cure=cure)
    if Path(name).name == "pocket_model":
        return "pocket"
    return Path(name).name if Path(name).is_absolute() else name


def _results(stage: Path, weights: str, digest: str) -> list[dict]:
    """Return the rows of the run's evaluation that concern an adapter, if it evaluated this very one."""
    folder = stage.parent / "04_evaluation"
    read = (read_manifest(folder) or {}).get("inputs", {}).get(weights, {}).get("sha256")
    if stage.name not in TRAINED or read != digest or stage_problem(folder) is not None:
        return []
    import pandas as pd

    frame = pd.read_csv(folder / "overall.csv")
    return frame[frame["policy"].isin(["starter", "base", TRAINED[stage.name][0]])].to_dict("records")


def _base_path(adapter: Path, origin: Origin) -> str:
    """Return what the base model is loaded from: its name, or the folder that the adapter was trained on."""
    from mlagent_lib.training.backends.weights import SHIPPED

    known = origin.base == "pocket" or origin.base in SHIPPED or "/" in origin.base
    return origin.base if known else str(_read_config(adapter)["base_model_name_or_path"])


def _write_adapter(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    shutil.copyfile(adapter / WEIGHTS, folder / WEIGHTS)
    if hashes_below(folder) != {WEIGHTS: origin.sha256}:
        raise RunError(f"the copy of {adapter / WEIGHTS} is damaged", cure="check the disk, then try again")
    config = _read_config(adapter)
    base = str(config.get("base_model_name_or_path") or origin.base)
    if Path(base).is_absolute():  # a path of this machine: only its last name helps elsewhere
        config["base_model_name_or_path"] = Path(base).name
    write_json(folder / CONFIG, config)


def _write_merged(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    from mlagent_lib.training.backends import load

    load(_base_path(adapter, origin), backend="plain", adapter=adapter).merge(folder)


def _check_gguf(origin: Origin) -> None:
    """Raise where GGUF cannot be made, before anything is loaded."""
    from mlagent_lib.training.backends import choose
    from mlagent_lib.training.backends.weights import need_reader

    if origin.base == "pocket":
        message = "the pocket model cannot become GGUF: llama.cpp does not know its tokenizer"
        raise RunError(message, cure="export it with --to merged, or train a Qwen2.5")
    if choose("auto") == "plain":
        need_reader("an export to GGUF")


def _write_gguf(adapter: Path, origin: Origin, folder: Path, quantization: str) -> None:
    from mlagent_lib.training.backends import choose, load
    from mlagent_lib.training.backends.gguf_file import splitting_of, write_gguf

    backend = "plain" if choose("auto") == "plain" else "unsloth"
    loaded = load(_base_path(adapter, origin), backend=backend, adapter=adapter)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as work:
        if backend == "plain":
            splitting = splitting_of(Path(loaded.path), loaded.model.config.model_type)
            loaded.merge(work, precision="float32")
            name = f"{Path(origin.base).stem}-{quantization}.gguf"
            write_gguf(Path(work), folder / name, quantization=quantization, splitting=splitting)
            return
        # Unsloth merges into the folder, and writes the files into another one beside it
        made = loaded.model.save_pretrained_gguf(
            str(Path(work) / "model"), loaded.tokenizer, quantization_method=quantization
        )
        files = (made or {}).get("gguf_files") or []
        if not files:
            cure = "read what it printed above; it needs network and a compiler for llama.cpp"
            raise RunError("Unsloth wrote no GGUF file", cure=cure)
        for file in files:
            shutil.move(str(file), folder / Path(file).name)


_WRITERS = {"adapter": _write_adapter, "merged": _write_merged, "gguf": _write_gguf}

# The card


def model_card(origin: Origin, kind: str) -> str:
    """Return the card as Markdown with the header that model hubs read.

    Args:
        kind: ``adapter``, ``merged`` or ``gguf``.

    Example:
        >>> text = model_card(Origin("org/model", 16, 32, "ab12"), "adapter")
        >>> "| adapter | LoRA, rank 16, alpha 32, sha256 ab12 |" in text, UNKNOWN in text
        (True, True)
    """
    from jinja2 import Environment, StrictUndefined

    from mlagent_lib.training.backends.tokens import TOKENIZER_NOTE

    what, library = KINDS[kind]
    is_pocket = origin.base.split("/")[-1] in ("pocket", "pocket_model")
    rules = "Qwen's" if is_pocket else "those of the architecture, where these are others"
    made = Environment(trim_blocks=True, undefined=StrictUndefined).from_string(CARD.read_text("utf-8"))
    return made.render(
        base=origin.base, run=origin.run, what=what, library=library, is_pocket=is_pocket,
        is_public=origin.base.count("/") == 1,  # a name on a hub; the pocket model has none
        tokenizer=TOKENIZER_NOTE.format(rules=rules) if is_pocket or kind == "merged" else "",
        facts=facts(origin), results=[_result(row) for row in origin.results],
    )  # fmt: skip


def facts(origin: Origin) -> list[tuple[str, str]]:
    """Return the rows of the card's first table: base, training, data, profile, commit, machine, versions."""
    rows = [
        ("base model", origin.base + (f" ({origin.card_of_base})" if origin.card_of_base else "")),
        ("adapter", f"LoRA, rank {origin.rank}, alpha {origin.alpha}, sha256 {origin.sha256}"),
    ]
    manifest = origin.manifest
    if manifest is None:
        return [*rows, ("training, data, profile, commit, versions", UNKNOWN)]
    profile, git, stage = manifest["profile"] or {}, manifest.get("git"), manifest["stage"]
    _, section, training, settings = TRAINED.get(stage, ("", "", stage, ""))
    commit = f"commit {git['commit']}{' with changes' if git['dirty'] else ''}" if git else "no commit"
    versions = manifest.get("versions", {})
    return [
        *rows,
        ("training", training),
        ("settings", settings.format(**profile[section]) if section in profile else "not recorded"),
        ("data", _data(origin)),
        ("coder while training", str(profile.get("coder", "not recorded")).split("@")[0]),
        ("profile, seed", f"{profile.get('name', 'not recorded')}, {manifest['seed']}"),
        ("kit", f"{manifest['package']}, {commit}"),
        ("machine", manifest["device"]),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)),
        ("time of this stage", f"{manifest['wall_s'] / 60:.1f} min"),
    ]


def _data(origin: Origin) -> str:
    """Return what it was trained on, with the hash that identifies it."""
    entry = origin.manifest["inputs"].get(TRAJECTORIES)
    if entry is None:
        return "not recorded"
    words = f"sha256 {entry['sha256']}"
    if origin.collection is None:
        return f"expert trajectories, {words}"
    summary, profile = origin.collection.get("summary", {}), origin.collection["profile"] or {}
    tasks = profile.get("collect", {}).get("tasks", "not recorded")
    tasks = tasks if isinstance(tasks, str) else ", ".join(tasks)
    count, expert = summary.get("trajectories", "some"), str(summary.get("expert", "not recorded"))
    return f"{count} expert trajectories (tasks: {tasks}; expert: {expert.split('@')[0]}), {words}"


def _result(row: Mapping) -> str:
    """Return a row of the evaluation as a row of the card."""
    gap = (row[name] for name in ("gap_closed", "gap_low", "gap_high"))
    gain = (row[name] for name in ("gain_pct", "gain_low", "gain_high"))
    return (
        f"| {row['policy']} | {row['tasks']} {row['split']} | {row['trajectories']} "
        f"| {plain_interval(*gap, 3)} | {plain_interval(*gain, 1, ' %')} |"
    )
