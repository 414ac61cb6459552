"""README, figures and committed results tell the same numbers."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from mlagent_lib.bench.against import against_lines
from mlagent_lib.bench.measure import BENCH, read_bench, speed_lines
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_file
from mlagent_lib.results import judge
from mlagent_lib.results.figures import redraw_all
from mlagent_lib.run import publish


def part(text: str, name: str) -> str:
    return text.split(f"<!-- {name}:start -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


@pytest.mark.parametrize(
    ("place", "name"), [(place, name) for place, names in publish.DOCUMENTS.items() for name in names]
)
def test_a_generated_table_is_what_the_committed_files_give(repository, place, name):
    figures = repository / "figures"
    tables = publish.document_tables(repository, figures) | {"speed": lambda: speed_lines(figures)}
    tables |= {"against": lambda: against_lines(figures)}
    made = tables[name]()
    assert part((repository / place).read_text(encoding="utf-8"), name) == made


def test_the_readme_is_short_and_says_every_claim_and_policy(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 10_000
    assert part(text, "short-results").count("\n| ") == 8 and part(text, "short-claims").count("- **C") == 7


def test_a_claim_that_the_runs_cannot_tell_gets_the_verdict_of_the_arms(tmp_path):
    now = {"C2": "reproduced at this scale", "C3": judge.TOO_FEW}
    for folder, verdicts in ((tmp_path, now), (tmp_path / "ablations", dict.fromkeys(now, "opposite found"))):
        folder.mkdir(exist_ok=True)
        rows = [
            {"claim": claim, "statement": "It holds.", "verdict": told} for claim, told in verdicts.items()
        ]
        pd.DataFrame(rows).to_csv(folder / "claims.csv", index=False)
    assert publish.short_claim_lines(tmp_path).split("\n") == [
        "- **C2** It holds. *Reproduced at this scale.*",
        "- **C3** It holds. *Opposite found.*",
    ]


def test_every_link_between_the_texts_leads_somewhere(repository):
    files = [
        *repository.glob("*.md"),
        *(repository / "figures").glob("*.md"),
        *repository.glob("tests/**/*.md"),
    ]
    for path in [*files, *(repository / "mlagent_lib").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (path.parent / link).exists(), (path, link)


def test_the_speed_is_that_of_the_committed_bench(repository):
    record = read_bench(repository / "figures" / BENCH)
    assert [row["key"] for row in record["findings"]] == list("abcdefghij")


@pytest.mark.parametrize("folder", [".", publish.PRETRAINED])
def test_every_committed_table_is_the_one_that_the_manifest_names(repository, folder):
    figures = repository / "figures" / folder
    named = json.loads((figures / "manifest.json").read_text())["files"]
    assert named == {path.name: sha256_file(path) for path in sorted(figures.glob("*.csv"))}


def test_a_table_that_is_derived_anew_gets_its_sum_and_no_other_does(repository, tmp_path):
    for path in (repository / "figures").glob("*.[cj]s*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("claims.csv", "minutes.csv"):  # the second one is measured: nothing makes it right again
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
    assert publish.derive(tmp_path, check=True) == publish.derive(tmp_path) == ["claims.csv"]
    named = json.loads((tmp_path / "manifest.json").read_text())["files"]
    wrong = [name for name, digest in named.items() if sha256_file(tmp_path / name) != digest]
    assert wrong == ["minutes.csv"]


def test_every_committed_figure_is_what_its_table_gives(repository):
    folders = publish.published_folders(repository / "figures")
    assert [folder.name for folder in folders] == ["figures", publish.PRETRAINED]
    for folder in folders:
        assert redraw_all(folder, check=True) == [] == publish.derive(folder, check=True)


@pytest.mark.parametrize("folder", [".", publish.PRETRAINED])
def test_every_run_behind_the_results_has_its_manifests(repository, folder):
    manifest = json.loads((repository / "figures" / folder / "manifest.json").read_text())
    for run, stages in manifest["runs"].items():
        assert set(stages) == {"01_collection", "02_sft", "03_grpo", "04_evaluation"}, run
        assert all(stage["wall_s"] > 0 and stage["versions"] for stage in stages.values())


def test_another_number_in_a_table_changes_the_readme(repository, tmp_path):
    for path in (repository / "figures").glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(tmp_path / "overall.csv")
    table.loc[table["policy"] == "rl", "gap_closed"] += 0.25
    table.to_csv(tmp_path / "overall.csv", index=False)
    for lines in (publish.result_lines, publish.short_result_lines):
        assert lines(tmp_path) != lines(repository / "figures")


def test_a_readme_without_markers_is_refused(tmp_path, repository):
    (tmp_path / "README.md").write_text("# nothing\n")
    with pytest.raises(RunError, match="markers"):
        publish.refresh_documents(tmp_path, repository / "figures", {})
