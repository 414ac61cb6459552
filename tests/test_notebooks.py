"""The notebooks keep the style rules, and the chain of them runs to its end in the smoke profile."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mlagent_lib.core.artifacts import NOTEBOOKS, read_manifest
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.run.notebooks import declared_parameters, run_all
from mlagent_lib.training.backends import POCKET

NAMES = [name for name, _ in NOTEBOOKS]
ALL = [*NAMES, "colab.ipynb"]  # that one runs the others
LABELS = ("**Question.**", "**Paper.**", "**Needs.**", "**Writes.**", "**Time.**")
BASE = {"profile": str, "seed": int, "runs_dir": str, "run_id": str}
FORBIDDEN = ("sys.path", "%autoreload", "os.environ", "/home/", "/root/", "/tmp/", "http://", "https://")
SAME_BYTES = (  # what the README promises of two smoke runs
    "02_sft/test_steps.csv",
    "02_sft/adapter/adapter_model.safetensors",
    "03_grpo/step_rewards.csv",
    "03_grpo/group.csv",
    "04_evaluation/trajectories.csv",
    "04_evaluation/tasks.csv",
    "04_evaluation/overall.csv",
    "04_evaluation/differences.csv",
    "04_evaluation/reading.csv",
    "04_evaluation/luck.csv",
)
LONGEST, MEDIAN, NEEDS_TEXT = 25, 8, 8


def lines_of(cell) -> list[str]:
    return [line for line in "".join(cell["source"]).splitlines() if line.strip()]


def text_of(cell) -> str:
    return "".join(cell["source"])


@pytest.fixture(scope="module", params=ALL)
def notebook(request, repository):
    """Return name and content of each notebook."""
    found = json.loads((repository / "notebooks" / request.param).read_text(encoding="utf-8"))
    return request.param, found


def code_cells(content):
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_folder_holds_the_notebooks_of_the_story_and_no_others(repository):
    assert sorted(path.name for path in (repository / "notebooks").glob("*.ipynb")) == sorted(ALL)


def test_the_first_cell_says_what_the_notebook_is_about(notebook):
    _, content = notebook
    first = content["cells"][0]
    assert first["cell_type"] == "markdown" and text_of(first).startswith("# ")
    places = [text_of(first).find(label) for label in LABELS]
    assert min(places) > 0 and places == sorted(places)


def test_the_last_section_is_what_we_saw_and_its_words_are_computed(notebook):
    _, content = notebook
    *_, heading, sentences = content["cells"]
    assert heading["cell_type"] == "markdown"
    assert re.search(r"^## What we saw$", text_of(heading).strip().splitlines()[-1])
    assert sentences["cell_type"] == "code" and "story.say(" in text_of(sentences)
    assert "{" in text_of(sentences), "a sentence without a computed value states a result by hand"


def test_one_cell_is_tagged_parameters_and_declares_literals(notebook, repository):
    name, content = notebook
    tagged = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code_cells(content)[0]
    found = declared_parameters(repository / "notebooks" / name)
    assert BASE.items() <= {key: type(value) for key, value in found.items()}.items()
    assert len(found) <= len(BASE) + 6
    for line in lines_of(tagged[0]):
        assert re.fullmatch(r"\w+: (str|int|float|bool) = .+  # .+", line), f"type and comment: {line!r}"


def test_cells_are_short(notebook):
    _, content = notebook
    sizes = [len(lines_of(cell)) for cell in code_cells(content)]
    assert max(sizes) <= LONGEST and statistics.median(sizes) <= MEDIAN and min(sizes) > 0


def test_a_cell_of_more_than_eight_lines_is_announced_by_text(notebook):
    _, content = notebook
    for before, cell in zip(content["cells"], content["cells"][1:], strict=False):
        if cell["cell_type"] == "code" and len(lines_of(cell)) > NEEDS_TEXT:
            assert before["cell_type"] == "markdown", text_of(cell)


def test_there_is_about_as_much_text_as_code(notebook):
    _, content = notebook
    markdown = sum(cell["cell_type"] == "markdown" for cell in content["cells"])
    assert 0.7 <= markdown / len(code_cells(content)) <= 1.9


def test_code_calls_and_defines_nothing(notebook):
    _, content = notebook
    for cell in code_cells(content):
        tree = ast.parse(text_of(cell))  # a magic or a shell line is no Python
        bad = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda, ast.Global, ast.While)
        calls = {getattr(node.func, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not [node for node in ast.walk(tree) if isinstance(node, bad)] or "max" in calls, text_of(cell)
        assert not any(word in text_of(cell) for word in FORBIDDEN), text_of(cell)
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert imported <= {"json", "math", "numpy", "pandas"}, imported


def test_every_plot_is_followed_by_how_to_read_it(notebook):
    _, content = notebook
    for cell, after in zip(content["cells"], content["cells"][1:], strict=False):
        if cell["cell_type"] == "code" and re.search(r"\bdraw\(|loss_curve\(", text_of(cell)):
            assert after["cell_type"] == "markdown" and "**How to read it**" in text_of(after), text_of(cell)
            assert all(
                f"- *{word}" in text_of(after) for word in ("Axis", "Reference", "What good looks like")
            )


def test_committed_notebooks_are_clean(notebook):
    _, content = notebook
    assert content["nbformat"] == 4 and content["nbformat_minor"] >= 5
    assert set(content["metadata"]) <= {"kernelspec", "language_info"}
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    identifiers = [cell["id"] for cell in content["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in code_cells(content):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}


def test_nbstripout_would_change_nothing(notebook, repository, tmp_path):
    pytest.importorskip("nbstripout")
    name, _ = notebook
    source = (repository / "notebooks" / name).read_text(encoding="utf-8")
    copy = tmp_path / name
    copy.write_text(source, encoding="utf-8")
    keys = "metadata.papermill metadata.widgets cell.metadata.papermill cell.metadata.execution"
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--extra-keys", keys, str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    assert copy.read_text(encoding="utf-8") == source


def test_each_notebook_works_on_its_own_stage_under_with(notebook):
    name, content = notebook
    stages = dict(NOTEBOOKS).get(name, ())
    text = "\n".join(text_of(cell) for cell in code_cells(content))
    assert re.findall(r'lab\.stage\("(\w+)"', text) == list(stages)
    assert text.count("with stage:") == len(stages) == text.count("if not stage.done:")


def test_every_reference_to_a_notebook_or_a_place_of_the_paper_leads_somewhere(repository):
    """A text that names notebook NN, or a table or figure of the paper, names one that is there."""
    from mlagent_lib.results.paper.numbers import paper_table

    places = set(paper_table()["version"] + " " + paper_table()["place"])
    known = {place for text in places for place in re.findall(r"(?:Table|Figure) \d+", text)}
    files = [*(repository / "notebooks").glob("*.ipynb"), repository / "README.md"]
    for path in [
        *files,
        *(repository / "mlagent_lib").rglob("*.py"),
        *(repository / "mlagent_lib").rglob("*.md"),
    ]:
        text = path.read_text(encoding="utf-8")
        for number in re.findall(r"[Nn]otebook (\d\d)\b", text):
            assert any(name.startswith(number) for name in NAMES), (path.name, number)
    for path in files:
        for kind, number in re.findall(r"\b(Table|Fig(?:ure|s)?\.?) (\d+)", path.read_text(encoding="utf-8")):
            assert f"{'Table' if kind == 'Table' else 'Figure'} {number}" in known, (path.name, kind, number)


@pytest.mark.parametrize("name", NAMES)
def test_the_deviations_that_a_notebook_names_are_those_that_name_it(repository, name):
    from mlagent_lib.run.comparison import deviations

    text = (repository / "notebooks" / name).read_text(encoding="utf-8")
    found = re.search(r"Deviations ([\d, toand]+) of notebook (\d\d)", text)
    if found is None:
        return
    assert found[2] == "06" and "comparison.deviations()" in (
        repository / "notebooks" / "06_paper_vs_ours.ipynb"
    ).read_text(encoding="utf-8")
    named = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", found[1]):
        named |= set(range(int(first), int(last or first) + 1))
    listed = (
        deviations().assign(number=lambda rows: rows["number"].astype(int)).set_index("number")["notebooks"]
    )
    assert named <= set(listed.index)
    own = {number for number, places in listed.items() if name[:2] in str(places)}
    assert named == own, (sorted(named - own), sorted(own - named))


def test_the_papers_numbers_have_sources_and_agree_with_each_other():
    from mlagent_lib.results.evaluation import relative_gain_pct
    from mlagent_lib.run.comparison import deviations, paper_numbers

    numbers = paper_numbers()
    assert numbers["source"].str.len().min() > 3 and numbers["value"].notna().all()
    assert numbers.query("statistic == 'avg@8' and method == 'ML-Agent'")["task"].nunique() == 13
    for task, part in numbers.query("task != 'all'").groupby("task"):
        found = part.set_index(["method", "statistic"])
        start, average = found.loc[("initial script", "score")], found.loc[("ML-Agent", "avg@8")]
        up = start["better"] == "higher"
        gain = relative_gain_pct(average["value"], start["value"], greater_is_better=up)
        assert gain == pytest.approx(found.loc[("ML-Agent", "gain"), "value"], abs=0.05), task
    assert list(deviations()["number"]) == [str(number) for number in range(1, len(deviations()) + 1)]


def test_every_paper_task_has_its_stand_in():
    from mlagent_lib.run.comparison import paper_numbers
    from mlagent_lib.tasks.pocket.cards import CARDS

    ours = [card.paper_task for card in CARDS]
    for task in set(paper_numbers()["task"]) - {"all"}:
        assert sum(name.startswith(task) for name in ours) == 1, task


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Return the folder of a smoke run made by the pipeline, or the one that MLAGENT_SMOKE_RUN names."""
    if "MLAGENT_SMOKE_RUN" in os.environ:
        return Path(os.environ["MLAGENT_SMOKE_RUN"])
    if not (POCKET / "model.safetensors").exists():
        pytest.skip("the pocket model is not there")
    return run_all("smoke", 0, tmp_path_factory.mktemp("runs"), say=lambda line: None)


@pytest.mark.slow
def test_the_smoke_chain_reaches_its_end_and_the_report(smoke):
    for _, stages in NOTEBOOKS:
        for stage in stages:
            assert read_manifest(smoke / stage)["params"]["profile"] == "smoke"
    assert (smoke / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_executed_notebooks_hold_no_warning_and_no_error(smoke, name):
    executed = json.loads((smoke / "notebooks" / name).read_text(encoding="utf-8"))
    for cell in code_cells(executed):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", "".join(output["text"])[:500]


@pytest.mark.slow
def test_an_executed_notebook_runs_again_from_where_it_lies(smoke, tmp_path):
    run = shutil.copytree(smoke, tmp_path / smoke.name)
    made = (run / "04_evaluation" / "manifest.json").read_bytes()
    notebook = nbformat.read(run / "notebooks" / "04_evaluation.ipynb", as_version=4)
    for cell in notebook.cells:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            assert str(smoke.parent) in cell["source"]
            cell["source"] = re.sub("runs_dir = .*", 'runs_dir = "runs"', cell["source"])
    NotebookClient(notebook, resources={"metadata": {"path": run / "notebooks"}}).execute()
    assert sorted(path.name for path in (run / "notebooks").iterdir()) == NAMES
    assert (run / "04_evaluation" / "manifest.json").read_bytes() == made


@pytest.mark.slow
def test_the_numbers_of_the_chain_hang_together(smoke):
    import pandas as pd

    steps = pd.read_csv(smoke / "03_grpo" / "step_rewards.csv")
    assert set(steps["policy"]) == {"sft", "rl"}
    assert set(steps.query("policy == 'sft'")["state"]) == set(steps.query("policy == 'rl'")["state"])
    rows, _ = read_jsonl(smoke / "04_evaluation" / "trajectories.jsonl")
    overall = pd.read_csv(smoke / "04_evaluation" / "overall.csv").query("split == 'all'")
    once = overall[overall["policy"] != "random-kept"]  # the trajectories of random ideas a second time
    assert once["trajectories"].sum() + once["unscored"].sum() == len(rows)
    assert overall.set_index("policy").loc["starter", "gap_closed"] == pytest.approx(0.0, abs=1e-4)
    group = pd.read_csv(smoke / "03_grpo" / "group.csv")
    assert group["advantage"].sum() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_a_second_run_with_the_same_seed_gives_the_same_numbers(smoke, tmp_path):
    if smoke.name != "smoke-seed0":
        pytest.skip("MLAGENT_SMOKE_RUN points to another run")
    again = run_all("smoke", 0, str(tmp_path), say=lambda line: None)
    for name in SAME_BYTES:
        assert (again / name).read_bytes() == (smoke / name).read_bytes(), name
