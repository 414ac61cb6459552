"""README, figures and committed results tell the same numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from mlagent_lib.bench.measure import read_bench
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_file
from mlagent_lib.results.figures import redraw_all
from mlagent_lib.run import publish


def part(text: str, name: str) -> str:
    return text.split(f"<!-- {name}:start -->\n")[1].split(f"\n<!-- {name}:end -->")[0]


def test_the_table_of_tasks_is_what_the_cards_say(repository):
    assert part((repository / "README.md").read_text(), "tasks") == publish.task_lines()


def test_the_results_are_those_of_the_committed_files(repository):
    assert part((repository / "README.md").read_text(), "results") == publish.result_lines(
        repository / "figures"
    )


def test_the_speed_is_that_of_the_committed_bench(repository):
    text = part((repository / "README.md").read_text(), "speed")
    assert text == publish.speed_lines(repository / "figures")
    record = read_bench(repository / "figures" / publish.BENCH)
    assert [row["key"] for row in record["findings"]] == list("abcdef")


def test_the_soaks_are_the_committed_ones(repository):
    text = part((repository / "README.md").read_text(), "soak")
    assert text == publish.soak_lines(repository / "tests" / "soak")


def test_every_committed_table_is_the_one_that_the_manifest_names(repository):
    figures = repository / "figures"
    named = publish.published_manifest(figures)["files"]
    assert named == {path.name: sha256_file(path) for path in sorted(figures.glob("*.csv"))}


def test_every_committed_figure_is_what_its_table_gives(repository):
    assert redraw_all(repository / "figures", check=True) == []


def test_every_run_behind_the_results_has_its_manifests(repository):
    for run, stages in publish.published_manifest(repository / "figures")["runs"].items():
        assert set(stages) == {"01_collection", "02_sft", "03_grpo", "04_evaluation"}, run
        assert all(stage["wall_s"] > 0 and stage["versions"] for stage in stages.values())


def test_another_number_in_a_table_changes_the_readme(repository, tmp_path):
    for path in (repository / "figures").glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(tmp_path / "overall.csv")
    table.loc[table["policy"] == "rl", "gap_closed"] += 0.25
    table.to_csv(tmp_path / "overall.csv", index=False)
    assert publish.result_lines(tmp_path) != publish.result_lines(repository / "figures")


def test_a_readme_without_markers_is_refused(tmp_path, repository):
    (tmp_path / "README.md").write_text("# nothing\n")
    with pytest.raises(RunError, match="markers"):
        publish.refresh_readme(tmp_path / "README.md", repository / "figures")
