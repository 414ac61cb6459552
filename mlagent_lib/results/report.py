"""One page per run: ``report.html``, self-contained, readable offline, computed from the files of the run.

Missing pieces are named together with the command that makes them. The page carries no script, and a policy
forbids any: what a model wrote is shown as text only.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from mlagent_lib.core.artifacts import NOTEBOOKS
from mlagent_lib.core.files import write_text
from mlagent_lib.results import show
from mlagent_lib.results.evaluation import TaskScale, scales_from_table, trajectory_table
from mlagent_lib.results.figures import render
from mlagent_lib.results.first_screen import AFTER, BEFORE, first_screen
from mlagent_lib.results.glossary import METRICS, NUMBERS, describe
from mlagent_lib.results.run_folder import RunFolder, read_run_folder
from mlagent_lib.results.show import escape, table_markup
from mlagent_lib.results.steps import minutes_table
from mlagent_lib.results.style import look, number, with_run

__all__ = ["write_report"]

CSS = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CAPTIONS = {
    "learning_curve": "Reward should rise on the states that are never trained on (diamonds), not only on "
    "the others. Valid actions should stay near 1. If KL shoots up, the policy has left what SFT taught it.",
    "gap_by_policy": "Right is better: 0 is the starter script, 1 the best known score. Two policies whose "
    "intervals lie far apart differ; for RL against SFT read the paired difference at the top of the page.",
    "before_after": "One line per task, from the hollow mark (before) to the filled one (after). A dashed "
    "grey line means worse. Few trajectories stand behind each point: read the group, not one task.",
    "outcome_shares": "What became of each step. Green is an edit whose script ran and was scored.",
    "best_at_k": "The best of k trajectories, chosen with the report labels as in the paper: an upper bound.",
    "idea_map": "Chosen ideas (large, ringed) among the candidates. On the right, a choice beats random ones "
    "where its mark lies above the grey cloud (first panel) or below it (second panel).",
    "minutes": "Wall time per stage; within RL, what generation, execution and update took.",
    "reward_shape": "v1 is nearly binary: a change of 5 % of the gap already gives 0.99. v2 is linear.",
}
PLACES = {
    "Learning": ("learning_curve", "outcome_shares"),
    "Policies and tasks": ("gap_by_policy", "before_after", "best_at_k"),
    "Method": ("idea_map", "reward_shape"),
}


def _missing(what: str, run: RunFolder) -> str:
    return (
        f'<div class="mla-missing">Missing: {escape(what)}. To make it: <code>{escape(run.command)}</code> '
        f"(finished stages are kept).</div>"
    )


def _section(title: str, *parts: str) -> str:
    anchor = title.lower().replace(" ", "-")
    head = f'<h2 id="{anchor}">{escape(title)}</h2>'
    return f'<section aria-labelledby="{anchor}">{head}{"".join(parts)}</section>'


def _first_screen(run: RunFolder) -> str:
    found = first_screen(run)
    tiles = "".join(
        f'<div class="mla-tile"><span class="mla-soft">{escape(t.label)}</span><b>{escape(t.value)}</b>'
        f'<span class="mla-soft">{escape(t.note)}</span></div>'
        for t in found.tiles
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.caveats)
    return (
        f'<p class="mla-verdict">{escape(found.sentence)}</p><div class="mla-tiles">{tiles}</div>'
        f'<ul class="mla-caveats">{notes}</ul>'
    )


def _what_was_run(run: RunFolder) -> str:
    last = list(run.manifests.values())[-1] if run.manifests else {}
    git = last.get("git") or {}
    commit = (
        f"{git['commit'][:12]}{' with local changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else ""
    )
    tiers = Counter(
        step.get("tier") for row in run.trajectories for step in row.get("steps", ()) if step.get("tier")
    )
    counts = Counter((row.get("source"), row.get("task")) for row in run.trajectories)
    per_task = sorted(set(counts.values()))
    size = f"{len(run.trajectories)} trajectories, {'–'.join(map(str, _ends(per_task)))} per task and policy"
    facts = {
        "run": run.folder.name,
        "profile": run.run.get("profile") or _from_params(last, "profile"),
        "seed": run.run.get("seed") if run.run.get("seed") is not None else last.get("seed"),
        "command": run.command,
        "kit": f"{last.get('package', '')} {commit}".strip(),
        "machine": " · ".join(str(last[key]) for key in ("platform", "device") if last.get(key)),
        "isolation of scripts": ", ".join(f"{tier} ({count} steps)" for tier, count in sorted(tiers.items())),
        "evaluation": size if run.trajectories else "",
    }
    values = [str(value) if value not in (None, "") else "not recorded" for value in facts.values()]
    table = pd.DataFrame({"what": list(facts), "value": values})
    versions = pd.DataFrame(sorted((last.get("versions") or {}).items()), columns=["package", "version"])
    folded = (
        f"<details><summary>Versions</summary>{table_markup(versions)}</details>" if len(versions) else ""
    )
    return _section("What was run", table_markup(table), folded, _problems(run))


def _ends(values: list[int]) -> list[int]:
    return values if len(values) < 2 else [values[0], values[-1]]


def _from_params(manifest: dict, name: str) -> object:
    return (manifest.get("params") or {}).get(name)


def _problems(run: RunFolder) -> str:
    return "".join(_missing(f"{name} ({problem})", run) for name, problem in run.problems.items())


def _luck(run: RunFolder) -> str:
    """Return which gains vanish when the same script runs with other seeds."""
    table = run.tables.get("luck")
    if table is None:
        return ""
    counts = table.groupby("policy", sort=False)["verdict"].value_counts().unstack(fill_value=0)
    parts = [
        f"{look(policy)[0]}: {row.get('survives', 0)} of {int(row.sum())} best edits survive"
        for policy, row in counts.iterrows()
    ]
    lost = table[table["verdict"] != "survives"]
    names = ", ".join(f"{row.task} ({look(row.policy)[0]}, {row.verdict})" for row in lost.itertuples())
    seeds = int(table["seeds"].max()) if len(table) else 0
    text = (
        f"The best edit of each task was run again with {seeds} other seeds of the script: a gain that loses "
        f"more than half is luck. {'; '.join(parts)}. {f'Not: {names}.' if names else ''}"
    )
    shown = table_markup(table.round(4), caption="Claimed gain in the task's unit, and the share kept of it")
    folded = f"<details><summary>Each of them</summary>{shown}</details>"
    return f"<h3>Does a gain survive another seed?</h3><p>{escape(text)}</p>{folded}"


def _minutes(run: RunFolder) -> str:
    seconds = {name: float(m["wall_s"]) for name, m in run.manifests.items() if m.get("wall_s") is not None}
    if not seconds:
        return _section("Where the minutes went", _missing("the manifests of the stages", run))
    table = minutes_table(seconds, run.metrics, rl_stage=run.grpo)
    wide = table.assign(minutes=table["seconds"] / 60)[["stage", "part", "minutes"]]
    peaks = [m["peak_memory_bytes"] for m in run.manifests.values() if m.get("peak_memory_bytes")]
    spent = sum(float(row.get("seconds") or 0) for row in run.log if row.get("status") == "executed")
    line = f"{sum(seconds.values()) / 60:.1f} minutes in the stages"
    line += f", {spent / 60:.1f} minutes with starting the notebooks" if spent else ""
    line += f"; largest peak memory of a stage {max(peaks) / 2**30:.1f} GiB" if peaks else ""
    folded = f"<details><summary>As a table</summary>{table_markup(wide, digits=2)}</details>"
    profile = run.run.get("profile") or "not recorded"  # only now are all stages there to be drawn
    hardware = next((m["device"] for m in run.manifests.values() if m.get("device")), "not recorded")
    render("minutes", with_run(table, profile=profile, hardware=hardware), run.folder / "figures")
    return _section("Where the minutes went", f"<p>{escape(line)}.</p>", _figure(run, "minutes"), folded)


def _figure(run: RunFolder, name: str) -> str:
    kinds = {run.folder / "figures" / f"{name}.svg": "svg+xml", run.folder / "figures" / f"{name}.png": "png"}
    path = next((path for path in kinds if path.is_file()), None)
    if path is None:
        return _missing(f"figures/{name}.svg", run)
    kind = kinds[path]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    title = name.replace("_", " ")
    image = f'<img src="data:image/{kind};base64,{data}" alt="{escape(f"{title}: {CAPTIONS[name]}")}">'
    link = path.with_suffix(".csv")
    numbers = (
        f' Numbers: <a href="figures/{escape(link.name)}">{escape(link.name)}</a>.' if link.is_file() else ""
    )
    text = f"<figcaption>{escape(CAPTIONS[name])}{numbers}</figcaption>"
    return f'<figure class="mla-figure">{image}{text}</figure>'


def _tasks(run: RunFolder) -> str:
    table = run.tables.get("tasks")
    if table is None:
        return _missing("the table of tasks (tasks.csv of the evaluation)", run)
    first = table.drop_duplicates("task").set_index("task")
    better = ["higher" if up else "lower" for up in first["greater_is_better"]]
    names = [f"{metric} ({side})" for metric, side in zip(first["metric"], better, strict=True)]
    page = pd.DataFrame({"task": first.index, "split": first["split"].to_numpy(), "metric (better)": names})
    page["starter"] = first["init"].to_numpy()
    sides = {
        policy: table[table["policy"] == policy].set_index("task").reindex(first.index)
        for policy in (BEFORE, AFTER)
        if policy in set(table["policy"])
    }
    for column, label in (("avg_at_k", "avg"), ("best_at_k", "best"), ("gap_closed", "gap closed")):
        for policy, part in sides.items():
            page[f"{label} {look(policy)[0]}"] = part[column].to_numpy()
        if column == "best_at_k":
            page["best known"] = first["best"].to_numpy()
    caption = "avg and best of K trajectories on the report labels, in the unit of the metric"
    whole = table_markup(table.drop(columns=["greater_is_better"]), caption="tasks.csv of the evaluation")
    folded = f"<details><summary>Every policy, every column</summary>{whole}</details>"
    return table_markup(page, caption=caption) + folded


def _overall(run: RunFolder) -> str:
    table = run.tables.get("overall")
    if table is None:
        return _missing("the overall table (overall.csv of the evaluation)", run)
    shown = pd.DataFrame({"policy": [look(p)[0] for p in table["policy"]], "split": table["split"]})
    for name, low, high, label, digits in (
        ("gap_closed", "gap_low", "gap_high", "gap closed [95 %]", 2),
        ("gain_pct", "gain_low", "gain_high", "gain, % [95 %]", 1),
    ):
        shown[label] = [_ci(*values, digits) for values in table[[name, low, high]].itertuples(index=False)]
    for name in ("tasks", "trajectories", "unscored"):
        shown[name] = table[name].to_numpy()
    caption = "every task weighs the same; a gap is bounded below at −1; gain: the paper's formula on avg@K"
    return table_markup(shown, caption=caption)


def _ci(value: float, low: float, high: float, digits: int) -> str:
    if pd.isna(value):
        return "–"
    ends = "" if pd.isna(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return f"{number(value, digits)}{ends}"


def _trajectory(run: RunFolder) -> str:
    """Show the RL trajectory of median gap closed among those with a scored edit: neither best nor worst."""
    scales: dict[str, TaskScale] = {}
    if "tasks" in run.tables:
        scales = scales_from_table(run.tables["tasks"])
    rows = [row for row in run.trajectories if row.get("task") in scales and row.get("steps")]
    rows = [row for row in rows if any(show.outcome_of(step) == "edited" for step in row["steps"])]
    chosen = [row for row in rows if row["source"] == "rl"] or rows
    if not chosen:
        return _section("One trajectory", _missing("a trajectory of the evaluation with a scored edit", run))
    table = trajectory_table(chosen, scales).sort_values(["gap_closed", "trajectory"], na_position="last")
    pick = table.index[int((table["gap_closed"].notna().sum() - 1) / 2)]
    note = "Chosen by rule: the median share of the gap closed among the trajectories with a scored edit."
    card = show.show_trajectory(chosen[pick], scales[chosen[pick]["task"]]).html
    return _section("One trajectory", f"<p>{escape(note)}</p>", card[card.index('<div class="mla-root">') :])


def _notebooks(run: RunFolder) -> str:
    items = []
    for name in dict.fromkeys(
        [n for n, _ in NOTEBOOKS] + sorted(p.name for p in run.folder.glob("notebooks/*.ipynb"))
    ):
        if (run.folder / "notebooks" / name).is_file():
            link = quote(f"notebooks/{name}", errors="surrogateescape")
            items.append(f'<li><a href="{link}">{escape(name)}</a></li>')
        else:
            items.append(f"<li>{escape(name)}: not executed yet</li>")
    intro = "<p>Executed copies, with every output. They open in JupyterLab.</p>"
    return _section("Notebooks", intro, f'<ul class="mla-plain">{"".join(items)}</ul>')


def _glossary(run: RunFolder) -> str:
    logged = list(dict.fromkeys(key for row in run.metrics for key in row)) or list(METRICS)
    words = {**NUMBERS, **{f"{name}": describe(name) for name in logged if name not in NUMBERS}}
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in words.items())
    return _section("Glossary", f'<dl class="mla-words">{pairs}</dl>')


def _metrics(run: RunFolder) -> str:
    rows = [row for row in run.metrics if row.get("split") in (None, "train")]
    if not rows:
        return ""
    names = [
        n for n in ("reward", "share_invalid", "share_error", "share_edited", "kl", "entropy") if n in rows[0]
    ]
    third = max(1, len(rows) // 3)
    parts = {"first third": rows[:third], "last third": rows[-third:]}
    means = {label: pd.DataFrame(part)[names].mean() for label, part in parts.items()}
    table = pd.DataFrame({"mean over training steps": names, **{k: v.to_numpy() for k, v in means.items()}})
    return table_markup(table, caption=f"{len(rows)} updates; first and last third of them")


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder and return its path; draw ``figures/minutes`` there as well.

    The same files give the same bytes. Whatever is missing or damaged is named on the page with its cure.

    Args:
        run_dir: Folder of a run, as ``mlagent run`` makes it; it may be unfinished.

    Raises:
        RunError: If there is no such folder, or it cannot be written.
    """
    run = read_run_folder(run_dir)
    sections = [
        _section(
            "Policies and tasks",
            _overall(run),
            *_figures(run, "Policies and tasks"),
            "<h3>Every task</h3>",
            _tasks(run),
            _luck(run),
        ),
        _section("Learning", _metrics(run), *_figures(run, "Learning")),
        _trajectory(run),
        _minutes(run),
        _what_was_run(run),
        _section("Method", *_figures(run, "Method")),
        _notebooks(run),
        _glossary(run),
    ]
    titles = [re.sub("<.*?>", "", part) for part in re.findall("<h2 .*?</h2>", "".join(sections))]
    links = "".join(f'<a href="#{t.lower().replace(" ", "-")}">{escape(t)}</a>' for t in titles)
    name = f"ML-Agent run {run.folder.name}"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<style>{show.CSS}{CSS}</style></head><body class="mla-root">'
        f'<a class="mla-skip" href="#main">Skip to the content</a>'
        f"<header><h1>{escape(name)}</h1>{_first_screen(run)}"
        f'<nav class="mla-nav" aria-label="Sections">{links}</nav>'
        f'</header><main id="main">{"".join(sections)}</main></body></html>\n'
    )
    return write_text(run.folder / "report.html", page)


def _figures(run: RunFolder, place: str) -> list[str]:
    return [_figure(run, name) for name in PLACES[place]]
