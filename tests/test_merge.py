"""Results made in several places come together: what stays is not touched, what is damaged is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from arm_tables import GAPS, METHODS, raw_tables, searches, steps, trajectories, write_raw

from mlagent_lib.arms.tables import merged_tables
from mlagent_lib.core.arms import arm_of
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_file, write_json
from mlagent_lib.results.arms import RAW, manifest_of, origin_lines

DONE = {"seed": 1, "unit": "arm-full", "finished": True, "wall_s": 7.0, "trajectories": 4}
OPEN = {"seed": 0, "unit": "search", "finished": False, "wall_s": None, "trajectories": None}
EQUAL_TIME = ["seed1/arm-episode-wise", "seed1/arm-episode-small"]  # they take the seconds of the full arm


@pytest.fixture
def out(tmp_path):
    return write_raw(tmp_path / "out")


def full_of_seed_1(**changes: pd.DataFrame):
    """Return tables and manifest of one unit: the full arm of seed 1, with other trajectories."""
    tables = raw_tables(trajectories=trajectories({"rl": 0.9}, (1,)), units=pd.DataFrame([DONE, OPEN]))
    tables |= {"step_rewards": steps({"rl": 0.7}).query("seed == 1")}
    tables |= {name: tables[name].iloc[:0] for name in ("curves", "edits", "blame", "luck", "searches")}
    scales = ["paper_task", "metric", "greater_is_better", "init", "best"]
    tables["trajectories"] = tables["trajectories"].drop(
        columns=scales
    )  # these stand in a table of their own
    tables = {name: table.drop(columns="who", errors="ignore") for name, table in tables.items()}
    manifest = {"units": {"seed1/arm-full": {"outputs": {"a": "new"}}}, "left": ["seed0/search"]}
    return tables | changes, manifest


def lines(text: str, who: str, seed: int) -> list[str]:
    arm = arm_of(who).keys
    return [line for line in text.splitlines() if line.startswith(f"{arm['arm']},{arm['policy']},{seed},")]


def test_the_unit_that_was_made_replaces_its_rows_and_all_others_stay_as_they_were(out):
    tables, manifest = full_of_seed_1()
    found, about = merged_tables(tables, manifest, out)
    for name in ("trajectories", "step_rewards"):
        before = (out / f"{name}.csv").read_text()
        new, after = (table.to_csv(index=False) for table in (tables[name], found[name]))
        assert lines(after, "rl", 1) == lines(new, "rl", 1) != lines(before, "rl", 1)
        for arm in GAPS:
            for seed in (0, 1, 2):
                if (arm, seed) != ("rl", 1):
                    assert lines(after, arm, seed) == lines(before, arm, seed)
        gone = len(lines(before, "rl", 1))
        assert len(found[name]) == len(before.splitlines()) - 1 - gone + len(tables[name])
    assert lines(found["edits"].to_csv(index=False), "rl", 1) == []  # no row of the older one is left over
    assert len(found["edits"]) == 5 and len(found["curves"]) == len(raw_tables()["curves"]) * 8 // 9
    units = found["units"].set_index(["seed", "unit"])
    assert (
        units.loc[("1", "arm-full"), "wall_s"] == "7.0" and units.loc[("2", "arm-full"), "wall_s"] == "180.0"
    )
    assert units.index.is_unique and len(units) == len(raw_tables()["units"])
    old = manifest_of(out)["units"]
    assert about["units"] == old | manifest["units"] and set(about["kept"]) == set(old) - {"seed1/arm-full"}
    assert about["left"] == ["seed0/search"]
    assert about["other_start"] == EQUAL_TIME


def test_what_the_runs_lack_is_not_left_where_it_is_there_already(out):
    manifest_path = out / "manifest.json"
    about = json.loads(manifest_path.read_text())
    about["units"]["seed0/search"] = {"outputs": {}}
    write_json(manifest_path, about)
    found, now = merged_tables(*full_of_seed_1(), out)
    assert now["left"] == [] and "seed0/search" in now["kept"]
    assert set(found["searches"]["seed"]) == {"0"} and set(found["searches"]["method"]) == set(METHODS)
    assert len(found["searches"]) == len(searches().query("seed == 0"))  # seed 1 has no such unit


def test_arms_from_a_start_that_was_made_again_otherwise_are_named_and_stay_so(out):
    about = manifest_of(out)
    about["units"]["seed0/collect-far-apart"] = {"outputs": {"a": "old"}}
    about["units"]["seed1/collect-far-apart"] = {"outputs": {"a": "old"}}
    write_json(out / "manifest.json", about)
    tables, manifest = full_of_seed_1()
    manifest["units"] |= {f"seed{seed}/collect-far-apart": {"outputs": {"a": "old"}} for seed in (0, 1)}
    assert merged_tables(tables, manifest, out)[1]["other_start"] == EQUAL_TIME
    manifest["units"]["seed0/collect-far-apart"] = {"outputs": {"a": "new"}}
    found, now = merged_tables(tables, manifest, out)
    of_seed_0 = {f"seed0/arm-{arm_of(name).name}" for name in GAPS}
    assert of_seed_0 < set(now["other_start"]) and "seed2/arm-sft" not in now["other_start"]
    for name in RAW:
        found[name].to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
    write_json(
        out / "manifest.json",
        now | {"files": {f"{name}.csv": sha256_file(out / f"{name}.csv") for name in RAW}},
    )
    again = merged_tables(tables, manifest, out)[1]  # the collection is the same now as at the last time
    assert again["other_start"] == now["other_start"] and again["kept"] == now["kept"]
    told = origin_lines(again)
    assert told[0].startswith(f"{len(now['kept'])} units stay from earlier results, of which 15 started from")
    assert len(now["other_start"]) == 13 + 2  # every arm of seed 0 but none is made here, two of seed 1
    assert origin_lines({"units": {}}) == []


def test_an_arm_that_was_made_again_is_compared_with_what_it_was(out):
    now = merged_tables(*full_of_seed_1(), out)[1]
    # 0.5 before and 0.9 now, both plus 0.05 for seed 1; the unscored 9.0 of seed 2 is no part of it
    assert now["made_again"] == {"seed1/arm-full": {"before": 0.55, "now": 0.95}}
    assert "differs from before by 0.400 at most" in origin_lines(now)[1]


def test_results_of_other_tasks_are_refused(out):
    scales = raw_tables()["scales"].assign(best=[0.91, 1.0])
    with pytest.raises(RunError, match=r"scales\.csv has other tasks or other scores.*leave out --add"):
        merged_tables(*full_of_seed_1(scales=scales), out)


def test_a_damaged_folder_is_refused(out):
    path = out / "step_rewards.csv"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(
        RunError, match=r"step_rewards\.csv is not the file that manifest\.json was written for"
    ):
        merged_tables(*full_of_seed_1(), out)
    path.unlink()
    with pytest.raises(RunError, match=r"step_rewards\.csv is missing"):
        merged_tables(*full_of_seed_1(), out)
