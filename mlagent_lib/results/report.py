"""One page per run: ``report.html``, self-contained, readable offline, computed from the files of the run.

Missing pieces are named together with the command that makes them. The page carries no script, and a policy
forbids any: what a model wrote is shown as text only.
"""

from __future__ import annotations

import base64
from collections import Counter
from itertools import product
from pathlib import Path
from string import Template
from urllib.parse import quote

import pandas as pd

from mlagent_lib.core.artifacts import NOTEBOOKS
from mlagent_lib.core.files import write_text
from mlagent_lib.results import show
from mlagent_lib.results.evaluation import HELD, median_trajectory, scales_from_table, trajectory_table
from mlagent_lib.results.figures import render
from mlagent_lib.results.first_screen import AFTER, BEFORE, FirstScreen, first_screen
from mlagent_lib.results.glossary import METRICS, NUMBERS, describe
from mlagent_lib.results.run_folder import EVALUATION, GRPO, RunFolder, read_run_folder
from mlagent_lib.results.show import element, escape, folded, items, table_markup, terms, wrapped
from mlagent_lib.results.steps import minutes_table
from mlagent_lib.results.style import ends, look, number, ordered, with_run

HERE = Path(__file__).parent
COLUMNS = (  # of the main table: a number, the stem of its ends, its name, its digits
    ("gap_closed", "gap", "last", 2),
    ("gap_kept", "kept", "best by validation", 2),
    ("gain_pct", "gain", "gain", 1),
)
CAPTIONS = pd.read_csv(HERE / "captions.csv", index_col="figure", keep_default_na=False)


def _missing(what: str, run: RunFolder) -> str:
    cure = f"To make it: {element('code', run.command)} (finished stages are kept)."
    return wrapped("div", f"Missing: {escape(what)}. {cure}", "missing")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _first_lines(found: FirstScreen) -> str:
    """Return what the page says first: the result beside one fixed sentence, RL beside SFT, alarms."""
    rung = element("b", "Alarms that ring") + items(found.alarms)
    said = [element("p", found.headline or found.sentence, "verdict")]
    more = " ".join([*found.others, found.sentence])
    said += [element("p", more)] if found.headline else []
    return "".join(said) + (wrapped("div", rung, "missing") if found.alarms else "")


def _at_a_glance(run: RunFolder, found: FirstScreen) -> str:
    reading = element("p", found.reading) if found.reading else ""
    tiles = ""
    for label, value, note in found.tiles:
        tile = element("span", label, "soft") + element("b", value) + element("span", note, "soft")
        tiles += wrapped("div", tile, "tile")
    notes = items(found.caveats, "caveats")
    return _figures(run, "At a glance") + reading + wrapped("div", tiles, "tiles") + notes


def _what_was_run(run: RunFolder) -> str:
    last = list(run.manifests.values())[-1] if run.manifests else {}
    git, params, rows = last.get("git") or {}, last.get("params") or {}, run.trajectories
    changed = " with local changes" if git.get("dirty") else ""
    commit = f"{git['commit'][:12]}{changed}" if git.get("commit") else ""
    tiers = Counter(step["tier"] for row in rows for step in row.get("steps", ()) if step.get("tier"))
    counts = set(Counter((row.get("source"), row.get("task")) for row in rows).values())
    each = "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else ""
    seed = run.run.get("seed")
    facts = {
        "run": run.folder.name,
        "profile": run.run.get("profile") or params.get("profile"),
        "seed": last.get("seed") if seed is None else seed,
        "command": run.command,
        "kit": f"{last.get('package', '')} {commit}".strip(),
        "machine": " · ".join(str(last[key]) for key in ("platform", "device") if last.get(key)),
        "isolation of scripts": ", ".join(f"{tier} ({count} steps)" for tier, count in sorted(tiers.items())),
        "evaluation": f"{len(rows)} trajectories, {each} per task and policy" if rows else "",
    }
    values = [str(value) if value not in (None, "") else "not recorded" for value in facts.values()]
    versions = pd.DataFrame(sorted((last.get("versions") or {}).items()), columns=["package", "version"])
    return (
        table_markup(pd.DataFrame({"what": list(facts), "value": values}))
        + (folded("Versions", table_markup(versions)) if len(versions) else "")
        + "".join(_missing(f"{name} ({problem})", run) for name, problem in run.problems.items())
    )


def _luck(run: RunFolder) -> str:
    """Return which gains vanish when the same script runs with other seeds."""
    table = run.tables.get("luck")
    if table is None:
        return ""
    parts = [
        f"{look(policy).label}: {(own == 'survives').sum()} of {len(own)} best edits survive"
        for policy, own in table.groupby("policy", sort=False)["verdict"]
    ]
    lost = table[table["verdict"] != "survives"].itertuples()
    names = ", ".join(f"{row.task} ({look(row.policy).label}, {row.verdict})" for row in lost)
    seeds = int(table["seeds"].max()) if len(table) else 0
    text = (
        f"The best edit of each task was run again with {seeds} other seeds of the script: a gain that loses "
        f"more than half is luck. {'; '.join(parts)}. {f'Not: {names}.' if names else ''}"
    )
    shown = table_markup(table.round(4), caption="Claimed gain in the task's unit, and the share kept of it")
    title = element("h3", "Does a gain survive another seed?")
    return title + element("p", text) + folded("Each of them", shown)


def _minutes(run: RunFolder) -> str:
    seconds = {name: float(m["wall_s"]) for name, m in run.manifests.items() if m.get("wall_s") is not None}
    if not seconds:
        return _missing("the manifests of the stages", run)
    table = minutes_table(seconds, run.metrics, rl_stage=GRPO)
    wide = table.assign(minutes=table["seconds"] / 60)[["stage", "part", "minutes"]]
    peaks = [m["peak_memory_bytes"] for m in run.manifests.values() if m.get("peak_memory_bytes")]
    spent = sum(float(row.get("seconds") or 0) for row in run.log if row.get("status") == "executed")
    line = f"{sum(seconds.values()) / 60:.1f} minutes in the stages"
    line += f", {spent / 60:.1f} minutes with starting the notebooks" if spent else ""
    line += f"; largest peak memory of a stage {max(peaks) / 2**30:.1f} GiB" if peaks else ""
    profile = run.run.get("profile") or "not recorded"  # only now are all stages there to be drawn
    hardware = next((m["device"] for m in run.manifests.values() if m.get("device")), "not recorded")
    render("minutes", with_run(table, profile=profile, hardware=hardware), run.folder / "figures")
    whole = folded("As a table", table_markup(wide, digits=2))
    return element("p", f"{line}.") + _figure(run, "minutes") + whole


def _figure(run: RunFolder, name: str) -> str:
    stem = run.folder / "figures" / name
    kinds = {".svg": "svg+xml", ".png": "png"}
    found = next((suffix for suffix in kinds if stem.with_suffix(suffix).is_file()), None)
    if found is None:
        return _missing(f"figures/{name}.svg", run)
    data = base64.b64encode(stem.with_suffix(found).read_bytes()).decode("ascii")
    caption, link = CAPTIONS.loc[name, "caption"], escape(f"{name}.csv")
    alt = escape(f"{name.replace('_', ' ')}: {caption}")
    text = escape(caption)
    if stem.with_suffix(".csv").is_file():
        text += f' Numbers: <a href="figures/{link}">{link}</a>.'
    image = f'<img src="data:image/{kinds[found]};base64,{data}" alt="{alt}">'
    return wrapped("figure", image + wrapped("figcaption", text), "figure")


def _figures(run: RunFolder, section: str) -> str:
    names = CAPTIONS.index[CAPTIONS["section"] == section]
    return wrapped("div", "".join(_figure(run, name) for name in names), "pair")


def _tasks(run: RunFolder) -> str:
    table = run.tables.get("tasks")
    if table is None:
        return _missing("the table of tasks (tasks.csv of the evaluation)", run)
    first = table.drop_duplicates("task").set_index("task")
    better = first["greater_is_better"].astype(bool).map({True: " (higher)", False: " (lower)"})
    page = pd.DataFrame({"split": first["split"], "metric (better)": first["metric"] + better})
    page["starter"] = first["init"]
    sides = [policy for policy in (BEFORE, AFTER) if policy in set(table["policy"])]
    wide = table[table["policy"].isin(sides)].set_index(["policy", "task"])
    for column, label in (("avg_at_k", "avg"), ("best_at_k", "best"), ("gap_closed", "gap closed")):
        for policy in sides:
            page[f"{label} {look(policy).label}"] = wide.loc[policy, column]
        if column == "best_at_k":
            page["best known"] = first["best"]
    caption = "avg and best of K trajectories on the report labels, in the unit of the metric"
    place = f"{EVALUATION}/tasks.csv"
    link = f'Every policy and every column: <a href="{quote(place)}">{escape(place)}</a>.'
    return table_markup(page.reset_index(), caption=caption) + wrapped("p", link)


def _overall(run: RunFolder) -> str:
    table = run.tables.get("overall")
    if table is None:
        return _missing("the overall table (overall.csv of the evaluation)", run)
    wide = table.set_index(["policy", "split"])
    policies, splits = ordered(table["policy"]), [name for name in HELD if name in set(table["split"])]
    shown, gains = (pd.DataFrame({"policy": [look(name).label for name in policies]}) for _ in range(2))
    for split, (name, stem, label, digits) in product(splits, COLUMNS):
        if name in table:
            sides = wide.reindex([(policy, split) for policy in policies])
            sides = sides[[name, f"{stem}_low", f"{stem}_high"]].itertuples(index=False)
            page = gains if stem == "gain" else shown
            page[f"{split}: {label}"] = [_with_ends(*values, digits) for values in sides]
    caption = "Share of the gap closed [95 %]; every task weighs the same, bounded below at −1"
    more = table_markup(gains, caption="Relative gain in percent [95 %], the paper's formula on avg@K")
    return table_markup(shown, caption=caption) + folded("As the paper measures it", more)


def _with_ends(value: float, low: float, high: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{number(value, digits)} {ends(low, high, digits)}".rstrip()


def _trajectory(run: RunFolder) -> str:
    """Show the RL trajectory of median gap closed: neither best nor worst, and the same one everywhere."""
    scales = scales_from_table(run.tables["tasks"]) if "tasks" in run.tables else {}
    rows = [row for row in run.trajectories if row.get("task") in scales and row.get("source") == AFTER]
    table = trajectory_table(rows, scales)
    if table["unscored"].all():
        return _missing("a scored trajectory of the policy after RL", run)
    middle = median_trajectory(table, AFTER)
    pick = next(row for row in rows if row["id"] == middle)
    note = "Chosen by rule: the median share of the gap closed among the trajectories of the policy after RL."
    card = show.show_trajectory(pick, scales[pick["task"]]).html
    return element("p", note) + card[card.index('<div class="mla-root">') :]


def _notebooks(run: RunFolder) -> str:
    made, lines = sorted(path.name for path in run.folder.glob("notebooks/*.ipynb")), ""
    for name in dict.fromkeys([*(name for name, _ in NOTEBOOKS), *made]):
        if name in made:
            link = quote(f"notebooks/{name}", errors="surrogateescape")
            lines += f'<li><a href="{link}">{escape(name)}</a></li>'
        else:
            lines += element("li", f"{name}: not executed yet")
    intro = element("p", "Executed copies, with every output. They open in JupyterLab.")
    return intro + wrapped("ul", lines, "plain")


def _glossary(run: RunFolder) -> str:
    logged = list(dict.fromkeys(key for row in run.metrics for key in row)) or list(METRICS)
    words = NUMBERS | {name: describe(name) for name in logged if name not in NUMBERS}
    return terms(((name, escape(text)) for name, text in words.items()), "words")


def _metrics(run: RunFolder) -> str:
    rows = [row for row in run.metrics if row.get("split") in (None, "train")]
    if not rows:
        return ""
    wanted = ("reward", "share_invalid", "share_error", "share_edited", "kl", "entropy")
    third, logged = max(1, len(rows) // 3), pd.DataFrame(rows)[[name for name in wanted if name in rows[0]]]
    means = {"first third": logged[:third].mean(), "last third": logged[-third:].mean()}
    table = pd.DataFrame(means).rename_axis("mean over training steps").reset_index()
    return table_markup(table, caption=f"{len(rows)} updates; first and last third of them")


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` into a run folder and return its path; draw ``figures/minutes`` there as well.

    The run, as ``mlagent run`` makes it, may be unfinished: whatever is missing or damaged is named on the
    page with its cure. The same files give the same bytes.

    Raises:
        RunError: If there is no such folder, or it cannot be written.
    """
    run = read_run_folder(run_dir)
    found = first_screen(run)
    tasks = _figures(run, "Policies and tasks") + element("h3", "Every task") + _tasks(run)
    sections = {
        "At a glance": _at_a_glance(run, found),
        "Policies and tasks": _overall(run) + tasks + _luck(run),
        "Learning": _metrics(run) + _figures(run, "Learning"),
        "One trajectory": _trajectory(run),
        "Where the minutes went": _minutes(run),
        "What was run": _what_was_run(run),
        "Method": _figures(run, "Method"),
        "Notebooks": _notebooks(run),
        "Glossary": _glossary(run),
    }
    page = Template((HERE / "report.html").read_text(encoding="utf-8")).substitute(
        name=escape(f"ML-Agent run {run.folder.name}"),
        style=show.CSS + (HERE / "report.css").read_text(encoding="utf-8"),
        first=_first_lines(found),
        links="".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in sections),
        sections="".join(_section(title, body) for title, body in sections.items()),
    )
    return write_text(run.folder / "report.html", page)


def _section(title: str, body: str) -> str:
    head = f'<h2 id="{_anchor(title)}">{escape(title)}</h2>'
    return f'<section aria-labelledby="{_anchor(title)}">{head}{body}</section>'
