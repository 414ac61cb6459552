"""From finished runs to committed results: tables and figures of several seeds, and the numbers in the texts.

``mlagent figures --runs runs/laptop-seed0 runs/laptop-seed1 ...`` reads the stage files of each run (checked
against their manifests) and writes ``figures/``: tidy CSV, the same figures as SVG and PNG, and a manifest
that says which runs they come from. ``mlagent figures`` alone redraws the pictures in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd

from mlagent_lib.core.arms import arm_of
from mlagent_lib.core.artifacts import read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl, sha256_file, write_bytes, write_json, write_text
from mlagent_lib.results import steps, two_models
from mlagent_lib.results.arms import left_of, load, manifest_of, origin_lines
from mlagent_lib.results.claims import claim_table
from mlagent_lib.results.evaluation import HELD, TaskScale, trajectory_table
from mlagent_lib.results.figures import put, render
from mlagent_lib.results.first_screen import SUBJECTS, against
from mlagent_lib.results.judge import NOT_TESTABLE, TOO_FEW
from mlagent_lib.results.open_questions import answers
from mlagent_lib.results.reading import field_table, reading_sentence
from mlagent_lib.results.smallest_difference import smallest_differences
from mlagent_lib.results.style import csv_bytes, plain_interval, with_run
from mlagent_lib.run.stages import edit_tables, score_tables
from mlagent_lib.tasks.paper.recipes import paper_task_lines
from mlagent_lib.tasks.registry import find_task, list_tasks

SCHEMA = "mlagent.published/1"
PRETRAINED = "laptop-llm"  # the folder of a pretrained model's results
METRICS = "03_grpo/metrics.jsonl"
_OF_STAGES = (  # of the manifests of stages, in the manifest of the results
    *("seed", "git", "package", "versions", "platform", "device", "wall_s", "peak_memory_bytes"),
    "summary",
)
_STAGES = ("01_collection", "02_sft", "03_grpo", "04_evaluation")


def publish(runs: Sequence[Path | str], figures: Path | str) -> dict[str, pd.DataFrame]:
    """Write tables and figures of finished runs into a folder and return the tables by name.

    Args:
        runs: Folders of runs of one profile, one for each seed.

    Raises:
        RunError: A run is unfinished or damaged, or the runs are of different profiles.
    """
    runs, figures = [Path(run) for run in runs], Path(figures)
    manifests = {run: _manifests(run) for run in runs}
    profiles = {found["04_evaluation"]["params"]["profile"] for found in manifests.values()}
    if len(profiles) != 1:
        names = ", ".join(sorted(profiles))
        raise RunError(f"the runs are of different profiles: {names}", cure="publish one profile")
    profile, hardware = profiles.pop(), next(iter(manifests.values()))["04_evaluation"].get("device", "")
    seeds = {run: found["04_evaluation"]["params"]["seed"] for run, found in manifests.items()}
    tables = _tables(runs, seeds)
    for name, table in tables.items():
        if name != "actions":  # the field of actions has them
            write_bytes(figures / f"{name}.csv", csv_bytes(table))
    for name, table in _figure_tables(tables, runs, manifests).items():
        render(name, with_run(table, profile=profile, hardware=hardware), figures)
    write_json(figures / "manifest.json", _manifest(profile, manifests, figures))
    return tables


def published_folders(figures: Path) -> list[Path]:
    """Return the folders of published runs: this one, and those in it that hold another profile's."""
    found = sorted(path.parent for path in figures.glob("*/manifest.json"))
    return [figures, *(path for path in found if manifest_of(path).get("schema") == SCHEMA)]


def _manifests(run: Path) -> dict[str, dict]:
    """Return the manifests of a run's stages, each checked against its files."""
    found = {}
    for stage in _STAGES:
        if problem := stage_problem(run / stage):
            cure = f"run 'mlagent run' for {run.name}"
            raise RunError(f"stage {stage} of {run} cannot be published: {problem}", cure=cure)
        found[stage] = read_manifest(run / stage)
    return found


def _tables(runs: Sequence[Path], seeds: dict[Path, int]) -> dict[str, pd.DataFrame]:
    tasks = {name: find_task(name) for name in list_tasks()}
    scales = {name: TaskScale.of(task) for name, task in tasks.items()}
    rows = [row for run in runs for row in read_jsonl(run / "04_evaluation" / "trajectories.jsonl")[0]]
    rewards = [pd.read_csv(run / "03_grpo" / "step_rewards.csv") for run in runs]
    luck = [pd.read_csv(run / "04_evaluation" / "luck.csv").assign(seed=seeds[run]) for run in runs]
    metrics = [pd.DataFrame(read_jsonl(run / METRICS)[0]).assign(seed=seeds[run]) for run in runs]
    parts = {"step_rewards": rewards, "luck": luck, "grpo_metrics": metrics}
    tables = {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}
    tables["trajectories"] = trajectory_table(rows, scales)
    longest = max(len(row["steps"]) for row in rows)
    more = derived(tables["trajectories"], tables["step_rewards"], tables["grpo_metrics"])
    return tables | more | edit_tables(rows, tasks.__getitem__, scales, longest)


def derived(
    trajectories: pd.DataFrame, rewards: pd.DataFrame, metrics: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the tables that follow from trajectories, single steps and GRPO's rows, by name.

    Figures have the others.
    """
    found = score_tables(trajectories, rewards)
    curves = [steps.curve_rows(part.to_dict("records"), seed) for seed, part in metrics.groupby("seed")]
    tables = {"trajectories": trajectories, "step_rewards": rewards, "curves": pd.concat(curves)}
    return found | {"best_at_k_values": found.pop("best_at_k"), "claims": claim_table(tables)}


def derive(figures: Path, *, check: bool = False) -> list[str]:
    """Compute the tables of `derived` from the committed rows again; return the names of those that changed.

    The manifest gets their sums, and no other's.

    Args:
        figures: Folder with trajectories, step rewards, metrics of GRPO, and the manifest of all tables.
        check: Write nothing, only compare.
    """
    rows = (pd.read_csv(figures / f"{name}.csv") for name in ("trajectories", "step_rewards", "grpo_metrics"))
    found = {f"{name}.csv": csv_bytes(table) for name, table in derived(*rows).items()}
    changed, manifest = put(figures, found, check=check), figures / "manifest.json"
    if changed and not check:
        known = json.loads(manifest.read_text(encoding="utf-8"))
        sums = {name: sha256_file(figures / name) for name in changed}
        write_json(manifest, known | {"files": known["files"] | sums})
    return changed


def _figure_tables(
    tables: dict[str, pd.DataFrame], runs: Sequence[Path], manifests: dict
) -> dict[str, pd.DataFrame]:
    first = runs[0]
    walls = {stage: manifests[first][stage]["wall_s"] for stage in _STAGES}
    found = {
        "learning_curve": steps.learning_curve_table(
            {seed: part.to_dict("records") for seed, part in tables["grpo_metrics"].groupby("seed")}
        ),
        "gap_by_policy": tables["overall"],
        "gap_by_step": tables["gap_by_step"],
        "action_field": field_table(tables["actions"]),
        "reading": tables["reading"],
        "before_after": steps.before_after_table(tables["tasks"]),
        "outcome_shares": tables["outcomes"],
        "best_at_k": tables["best_at_k_values"],
        "minutes": steps.minutes_table(walls, read_jsonl(first / METRICS)[0], rl_stage="03_grpo"),
    }
    for name in ("idea_map", "reward_shape"):
        drawn = pd.read_csv(first / "figures" / f"{name}.csv")
        found[name] = drawn.drop(columns=["profile", "hardware"], errors="ignore")
    return found


def _manifest(profile: str, manifests: dict, figures: Path) -> dict:
    where = () if figures.name == "figures" else ("--folder", f"figures/{figures.name}")
    return {
        "schema": SCHEMA,
        "profile": profile,
        "command": " ".join(["mlagent figures --runs", *(f"runs/{run.name}" for run in manifests), *where]),
        "runs": {
            run.name: {stage: {key: row.get(key) for key in _OF_STAGES} for stage, row in found.items()}
            for run, found in manifests.items()
        },
        "files": {path.name: sha256_file(path) for path in sorted(figures.glob("*.csv"))},
    }


def table_lines(head: str, rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """Return a table as lines of Markdown, its head as written.

    Example:
        >>> table_lines("| | a |", [("b", "c")])
        ['| | a |', '|---|---|', '| b | c |']
    """
    return [head, "|---" * (head.count("|") - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def task_lines() -> str:
    """Return the table of tasks as Markdown."""
    lines = table_lines(
        "| paper's task | ours | modality | metric | better | data | rows: visible / feedback / report | "
        "starter | best known |"
    )
    for split in HELD:
        lines.append(f"| **{split}** | | | | | | | | |")
        for task in map(find_task, list_tasks(split)):
            source = task.provenance if task.real else "generated from a seed"
            labels = (len(pd.read_csv(task.labels_dir / f"{kind}.csv")) for kind in ("feedback", "report"))
            lines.append(
                f"| {task.paper_task} | `{task.name}` | {task.modality} | {task.metric} | {task.better} | "
                f"{source} | {' / '.join(map(str, (task.rows, *labels)))} | "
                f"{task.baseline['report']:.4g} | {task.best['report']:.4g} |"
            )
    return "\n".join(lines)


POLICIES = {
    "starter": "starter",
    "fixed-edit": "best fixed edit",
    "fixed-sequence": "best fixed sequence",
    "random-ideas": "random ideas",
    "base": "base model",
    "sft": "after SFT",
    "rl": "after RL",
    "best-edit": "*each task's best single edit (bound)*",
}


HEAD = "| policy | held-in: last | best kept | held-out: last | best kept |"


def short_result_lines(figures: Path) -> str:
    """Return the first table of the README: gap closed by each policy, and whether the trained one reads.

    Beside the last submission stands the one whose script printed the best validation metric.
    """
    overall = pd.read_csv(figures / "overall.csv")
    rows = [(label, *_gap_cells(overall, policy, 2)) for policy, label in POLICIES.items()]
    lines = table_lines(HEAD, rows)
    return "\n".join([*lines, "", _against_line(figures), "", _reading_line(figures)])


def short_claim_lines(figures: Path) -> str:
    """Return one line for each claim of the paper: its statement, and the verdict of the committed runs.

    Where they alone cannot tell, it is that of the arms.
    """
    arms = pd.read_csv(figures / "ablations" / "claims.csv").set_index("claim")["verdict"]
    lines = []
    for row in pd.read_csv(figures / "claims.csv").itertuples():
        told = arms[row.claim] if row.verdict == TOO_FEW else row.verdict
        lines.append(f"- **{row.claim}** {row.statement} *{told[0].upper()}{told[1:]}.*")
    return "\n".join(lines)


def result_lines(figures: Path) -> str:
    """Return the table of results as Markdown, from the committed CSV files alone."""
    overall, rows = pd.read_csv(figures / "overall.csv"), []
    for policy, label in POLICIES.items():
        gains = (_cell(overall, policy, split, "gain", 1) for split in HELD)
        rows.append((label, *_gap_cells(overall, policy, 3), *gains))
    parts = ["\n".join(table_lines(f"{HEAD} gain held-in | gain held-out |", rows))]
    rewards = overall.query("split == 'held-in'").set_index("policy")["reward"]
    differences = pd.read_csv(figures / "differences.csv").query("after == 'rl' and before == 'sft'")
    for row in differences.itertuples():
        told = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        if row.measure == "gap":
            parts.append(
                f"Gap closed, {row.split} tasks: RL minus SFT {told}, {row.n} trajectories on {row.tasks} "
                f"tasks, {_seeds(row.seeds)}."
            )
        elif row.measure == "reward":
            parts.append(
                "Mean step reward, as v1 pays it (0.5 for no change), on states not trained on: "
                f"{rewards['sft']:.3f} after SFT, {rewards['rl']:.3f} after RL; "
                f"difference {told}, {row.n} states, {_seeds(row.seeds)}."
            )
    return "\n\n".join([*parts, _against_line(figures), _reading_line(figures), _luck_line(figures)])


def _against_line(figures: Path) -> str:
    """Return whether the policy after RL does more than what reads nothing."""
    differences = pd.read_csv(figures / "differences.csv")
    return " ".join(filter(None, (against(differences, name) for name in SUBJECTS)))


def _reading_line(figures: Path) -> str:
    """Return whether the policy after RL reads, and the share of the commonest edit of the others."""
    table = pd.read_csv(figures / "reading.csv")
    shares = table.groupby("policy")["share"].mean()
    others = {"sft": "after SFT", "random-ideas": "of random ideas"}
    told = ", ".join(f"{shares[name]:.0%} {label}" for name, label in others.items() if name in shares)
    said = table[table["policy"] == "rl"]["commonest"].iloc[0]
    return f"{reading_sentence(table)} The commonest edit is “{said}” ({told})."


def _luck_line(figures: Path) -> str:
    table = pd.read_csv(figures / "luck.csv").query("policy == 'rl'")
    kept = int((table["verdict"] == "survives").sum())
    return (
        f"Luck: {kept} of {len(table)} best edits of the policy after RL (one for each task and seed with a "
        f"gain) survive {int(table['seeds'].max())} other seeds of the script."
    )


def soak_lines(folder: Path) -> str:
    """Return what is said of the two soaks, from their committed records alone."""
    steps, kills = (json.loads((folder / f"{name}.json").read_text()) for name in ("steps", "kill_chain"))
    spread, targets = steps["max_minus_min"], kills["kills_by_target"]
    flat = [name for name, value in spread.items() if value == 0]
    return "\n".join(
        [
            f"- {steps['steps']:,} steps in one process ({steps['executed']:,} scripts really run, "
            f"{steps['seconds'] / 60:.0f} minutes): after the warm-up resident memory stays within "
            f"{spread['memory_mb']:.1f} MB, that of the warm servers within {spread['servers_mb']:.1f} MB; "
            f"constant: {', '.join(flat).replace('_', ' ')}. "
            f"Left after closing: {steps['left_after_close']['processes']} processes, "
            f"{steps['left_after_close']['temporary_entries']} temporary files "
            "([table](../../tests/soak/steps.csv), [record](../../tests/soak/steps.json)).",
            f"- {kills['kills']} times `kill -9` at seeded moments over the whole chain "
            f"({', '.join(f'{name} {count}' for name, count in targets.items())}): {kills['result']}, in "
            f"{kills['starts']} starts of {kills['chains']} chains, each compared file by file with an "
            "undisturbed run ([record](../../tests/soak/kill_chain.json)).",
        ]
    )


def real_model_lines(record: Path) -> str:
    """Return what a pretrained model takes at work, as a list, from the record of `bench.real_model`.

    Of several values the median is told.
    """
    told = json.loads(record.read_text(encoding="utf-8"))
    update, sampling, coder = (told[part] for part in ("update", "sampling", "coder"))
    seconds = {name: median(values) for name, values in update["seconds"].items()}
    low, middle, high = sampling["ratio [quartile, median, quartile]"]
    ours, theirs = (median(rates) for rates in sampling["tokens a processor second"].values())
    ways = coder["blocks"], coder["whole scripts"]
    edits = [f"{found['exact']} of {sum(found.values())}" for found in ways]
    peak = max(told[part]["peak_gb"] for part in ("sft", "update", "sampling", "coder"))
    return "\n".join(
        [
            f"- A GRPO update of {update['actions']} actions, {update['completion_tokens']:.0f} tokens on "
            f"average, takes {seconds['total']:.0f} s: {seconds['generation']:.0f} s of sampling, while "
            f"scripts run, and {seconds['update']:.0f} s of learning ({seconds['charged']:.0f} s charged; "
            f"{update['validity']:.0%} of the replies valid after a short SFT).",
            f"- Our decode loop makes {ours:.0f} tokens a processor second, Transformers' `generate` "
            f"{theirs:.0f}: {middle:.1f} times [{low:.1f}, {high:.1f}].",
            f"- SFT of {told['sft']['rows']} rows took {told['sft']['seconds']:.0f} s. No part took more "
            f"than {peak:.1f} GB.",
            f"- As coder it makes {edits[0]} catalogue edits exactly where it is asked for a block, and "
            f"{edits[1]} where it is asked for the whole script; so the exact coder is the default.",
        ]
    )


def whole_run_line(folder: Path) -> str:
    """Return how long updates and evaluations of committed runs took, and their memory, as a list item."""
    updates = pd.read_csv(folder / "grpo_metrics.csv").query("split == 'train'")
    took, runs = updates["seconds_total"], manifest_of(folder)["runs"].values()
    evaluation = median(run["04_evaluation"]["wall_s"] for run in runs) / 60
    peak = max(stage["peak_memory_bytes"] for run in runs for stage in run.values()) / 1e9
    return (
        f"- In the committed runs ({_seeds(len(runs))}) an update takes {took.median():.0f} s in the median, "
        f"at most {took.max():.0f}, scripts included; all {len(took) // len(runs)} of a run take "
        f"{took.sum() / len(runs) / 60:.0f} minutes, the evaluation {evaluation:.0f}; no notebook took more "
        f"than {peak:.1f} GB.{_attempts(folder / 'attempts.json')}"
    )


def _attempts(record: Path) -> str:
    """Return how long a run took that was killed on the way; "" without such a record."""
    if not record.is_file():
        return ""
    told = json.loads(record.read_text(encoding="utf-8"))
    minutes = sum(attempt["seconds"] for attempt in told["attempts"]) / 60
    return (
        f" One was killed {len(told['attempts']) - 1} times (`kill -9`) and took {minutes:.0f} minutes of "
        f"work from an empty cache to the report, all its processes at most {told['peak_gb']:.1f} GB."
    )


def two_model_lines(folders: Sequence[Path]) -> str:
    """Return a pretrained model beside the pocket model: what differs by intervals, then every answer."""
    tables = two_models.load_both(folders)
    table = two_models.beside_table(tables)
    lines = [f"- {told}" for told in two_models.sentences(tables)]
    rows = table_lines(f"| {' | '.join(table.columns)} |", table.itertuples(index=False))
    return "\n".join([*lines, "", *rows])


def own_claim_lines(folder: Path, *, left_out: Sequence[str] = ()) -> str:
    """Return the table of the paper's claims and of the verdicts that a folder of results holds.

    Args:
        left_out: Verdicts whose claims are not shown.
    """
    found = pd.read_csv(folder / "claims.csv").fillna("").itertuples()
    rows = [(row.claim, row.statement, row.verdict, row.ours or "–") for row in found]
    shown = [row for row in rows if row[2] not in left_out]
    return "\n".join(table_lines("| | claim of the paper | verdict | ours |", shown))


def claim_lines(folder: Path) -> str:
    """Return the table of the paper's claims, and what the arms behind it still lack."""
    lines = [own_claim_lines(folder)]
    tables, left = load(folder), left_of(folder)
    units, hours = tables["units"], tables["units"]["wall_s"].sum() / 3600.0
    lines += ["", f"From {int(units['finished'].sum())} finished units of work, {hours:.1f} core-hours."]
    lines[-1] += "".join(f" {line}." for line in origin_lines(manifest_of(folder)))
    if left:
        arms = sorted({name.split("/")[1].removeprefix("arm-") for name in left if "/arm-" in name})
        begun = sorted(set(arms) & {arm_of(who).name for who in tables["trajectories"]["who"]})
        none = [name for name in arms if name not in begun]
        lines[-1] += f" Not finished: {len(left)} units, of the arms {', '.join(none) or 'none'}"
        lines[-1] += f"; more seeds of {', '.join(begun)}." if begun else "."
    if told := answers(tables):
        lines += ["", "Beyond the paper:", "", *(f"- {sentence}" for sentence in told)]
    if told := smallest_differences(pd.read_csv(folder / "differences.csv")):
        lines += ["", "What this length and number of seeds cost in certainty:", ""]
        lines += [f"- {certainty}." for certainty in told]
    return "\n".join(lines)


def _seeds(count: float) -> str:
    return "one seed" if count == 1 else f"{int(count)} seeds"


def _gap_cells(overall: pd.DataFrame, policy: str, digits: int) -> list[str]:
    """Return the gap closed by the last submission and by the best by validation, held-in and held-out."""
    return [_cell(overall, policy, *side, digits) for side in product(HELD, ("gap", "kept"))]


def _cell(overall: pd.DataFrame, policy: str, split: str, what: str, digits: int) -> str:
    part = overall[(overall["policy"] == policy) & (overall["split"] == split)]
    value = part[{"gap": "gap_closed", "kept": "gap_kept", "gain": "gain_pct"}[what]]
    if value.isna().all():
        return "–"
    ends = (part.iloc[0][f"{what}_{end}"] for end in ("low", "high"))
    return plain_interval(value.iloc[0], *ends, digits, " %" if what == "gain" else "")


DOCUMENTS = {  # which generated tables stand in which text, by the names of their markers
    "README.md": ("short-results", "short-claims"),
    "figures/README.md": ("results", "own-claims", "two-models", "claims"),
    "mlagent_lib/tasks/README.md": ("tasks", "paper-tasks"),
    "mlagent_lib/environment/README.md": ("soak", "speed", "against"),
    "mlagent_lib/training/README.md": ("real-model",),
}


def document_tables(root: Path, figures: Path) -> dict[str, Callable[[], str]]:
    """Return what makes each generated table, by the name of its markers."""
    return {
        "short-results": lambda: short_result_lines(figures),
        "short-claims": lambda: short_claim_lines(figures),
        "tasks": task_lines,
        "paper-tasks": lambda: "\n".join(paper_task_lines()),
        "results": lambda: result_lines(figures),
        "own-claims": lambda: own_claim_lines(figures, left_out=(TOO_FEW, NOT_TESTABLE)),
        "claims": lambda: claim_lines(figures / "ablations"),
        "two-models": lambda: two_model_lines([figures, figures / PRETRAINED]),
        "real-model": lambda: "\n".join(
            [real_model_lines(figures / "real_model.json"), whole_run_line(figures / PRETRAINED)]
        ),
        "soak": lambda: soak_lines(root / "tests" / "soak"),
    }


def refresh_documents(root: Path, figures: Path, more: Mapping[str, Callable[[], str]]) -> list[str]:
    """Write the generated tables between their markers, and return the names of the texts that changed.

    Args:
        root: The checkout; a text that is not there is left out.
        more: What makes further tables, by the name of their markers.

    Raises:
        RunError: A marker is missing.
    """
    bodies, changed = {**document_tables(root, figures), **more}, []
    for place, names in DOCUMENTS.items():
        path = root / place
        if not path.is_file():
            continue
        old = text = path.read_text(encoding="utf-8")
        for name in names:
            start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
            if text.count(start) != 1 or text.count(end) != 1:
                raise RunError(f"{path} lacks the markers {start} and {end}", cure="put them back, once each")
            head, rest = text.split(start)
            text = f"{head}{start}\n{bodies[name]()}\n{end}{rest.split(end)[1]}"
        if text != old:
            write_text(path, text)
            changed.append(place)
    return changed
