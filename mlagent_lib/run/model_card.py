"""The card that goes with an exported model, filled from manifests: a text made of records, no model loaded.

What no record says is said to be missing, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "llama.cpp"}
WHAT = {
    "adapter": "A LoRA adapter: to be put on its base model, whose weights are not in this folder.",
    "merged": "The base model with the LoRA adapter merged into it, 16 bits a weight.",
    "gguf": "The base model with the LoRA adapter merged into it, in the format of llama.cpp.",
}
TRAINED = {"02_sft": "exploration-enriched fine-tuning (SFT)", "03_grpo": "SFT, then step-wise GRPO"}
UNKNOWN = "not recorded: no manifest was beside the adapter"
TOKENIZER = """\
Load the tokenizer with `PreTrainedTokenizerFast.from_pretrained`: `AutoTokenizer` of Transformers 5 would
replace its splitting rules by {rules}."""
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


def model_card(origin: Origin, kind: str) -> str:
    """Return the card as Markdown with the header that model hubs read.

    Args:
        origin: What is known.
        kind: ``adapter``, ``merged`` or ``gguf``.

    Example:
        >>> text = model_card(Origin("org/model", 16, 32, "ab12"), "adapter")
        >>> "| adapter | LoRA, rank 16, alpha 32, sha256 ab12 |" in text, UNKNOWN in text
        (True, True)
    """
    is_public = origin.base.count("/") == 1  # a name on a hub; the pocket model has none
    header = [
        "---",
        *([f"base_model: {origin.base}"] if is_public else []),
        f"library_name: {LIBRARIES[kind]}",
        "pipeline_tag: text-generation",
        "tags: [ml-agent, lora]",
        "---",
    ]
    title = f"# ML-Agent policy{f' of the run {origin.run}' if origin.run else ''}"
    text = [
        *header, title, "", WHAT[kind], "",
        "Made by the ML-Agent reproduction kit (arXiv 2505.23723; independent of its authors). It reads a",
        "machine-learning task, its script and its history, and says in words how to edit the script.", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(origin)), "",
        "## Results", "", *results(origin), "",
        "## Limits", "", *(f"- {line}" for line in limits(origin, kind)), "",
    ]  # fmt: skip
    return "\n".join(text)


def facts(origin: Origin) -> list[tuple[str, str]]:
    """Return the rows of the card's first table: base, training, data, profile, commit, machine, versions."""
    rows = [
        ("base model", origin.base + (f" ({origin.card_of_base})" if origin.card_of_base else "")),
        ("adapter", f"LoRA, rank {origin.rank}, alpha {origin.alpha}, sha256 {origin.sha256}"),
    ]
    manifest = origin.manifest
    if manifest is None:
        return [*rows, ("training, data, profile, commit, versions", UNKNOWN)]
    profile, git = manifest["profile"] or {}, manifest.get("git")
    commit = f"commit {git['commit']}{' with changes' if git['dirty'] else ''}" if git else "no commit"
    versions = manifest.get("versions", {})
    return [
        *rows,
        ("training", TRAINED.get(manifest["stage"], manifest["stage"])),
        ("settings", _settings(manifest["stage"], profile)),
        ("data", _data(origin)),
        ("coder while training", str(profile.get("coder", "not recorded")).split("@")[0]),
        ("profile, seed", f"{profile.get('name', 'not recorded')}, {manifest['seed']}"),
        ("kit", f"{manifest['package']}, {commit}"),
        ("machine", manifest["device"]),
        ("versions", ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)),
        ("time of this stage", f"{manifest['wall_s'] / 60:.1f} min"),
    ]


def _settings(stage: str, profile: Mapping) -> str:
    """Return the settings of a training in a few words."""
    name = {"02_sft": "sft", "03_grpo": "grpo"}.get(stage)
    if name is None or name not in profile:
        return "not recorded"
    words = profile[name]
    if name == "sft":
        return f"{words['epochs']:g} epochs, batch {words['batch']}, learning rate {words['lr']:g}"
    return (
        f"{words['steps']} steps of {words['states_per_step']} states and {words['group_size']} actions "
        f"each, learning rate {words['lr']:g}, KL {words['beta']:g}, reward {words['reward_form']}"
    )


def _data(origin: Origin) -> str:
    """Return what it was trained on, with the hash that identifies it."""
    name = "01_collection/trajectories.jsonl"
    entry = origin.manifest["inputs"].get(name)
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


def results(origin: Origin) -> list[str]:
    """Return the lines of the table of results, or a sentence where this adapter was not evaluated."""
    if not origin.results:
        return ["This adapter has no evaluation on record: no number is claimed."]
    lines = [
        "Share of the gap between the starter (0) and the best known score (1) that is closed, on labels",
        "which no reward has read; intervals in brackets.", "",
        "| policy | tasks | trajectories | gap closed | relative gain |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in origin.results:
        lines.append(
            f"| {row['policy']} | {row['tasks']} {row['split']} | {row['trajectories']} "
            f"| {row['gap_closed']:.3f}{_ends(row, 'gap', '{:.3f}'.format)} "
            f"| {_tenths(row['gain_pct'])} %{_ends(row, 'gain', _tenths)} |"
        )
    return lines


def _ends(row: Mapping, name: str, word: Callable[[float], str]) -> str:
    """Return an interval in brackets, or nothing where one trajectory a task gave none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f" [{word(low)}, {word(high)}]" if math.isfinite(low) else ""


def _tenths(value: float) -> str:
    """Return a number with one decimal, and no minus before a zero.

    Example:
        >>> _tenths(-9e-6), _tenths(-1.25)
        ('0.0', '-1.2')
    """
    return f"{round(value, 1) + 0.0:.1f}"


def limits(origin: Origin, kind: str) -> list[str]:
    """Return what a user must not expect.

    Args:
        origin: What is known.
        kind: ``adapter``, ``merged`` or ``gguf``.
    """
    lines = [
        "It writes edit instructions, not code: a coder turns them into code. Run what comes of it isolated.",
        "It was rewarded on the tasks named above only; elsewhere nothing is promised.",
        "One seed: other seeds of the same training may be clearly better or worse.",
        "The licence of the base model holds for everything made from it.",
    ]
    is_pocket = origin.base.split("/")[-1] in ("pocket", "pocket_model")
    if is_pocket:
        lines.insert(
            0, "A didactic stand-in: outside the edit catalogue of the pocket suite it knows nothing."
        )
    if is_pocket or kind == "merged":
        rules = "Qwen's" if is_pocket else "those of the architecture, where these are others"
        lines.append(TOKENIZER.format(rules=rules).replace("\n", " "))
    return lines
