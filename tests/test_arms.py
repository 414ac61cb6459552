"""Arms, the units of work behind them, their plan, and how units are started: no model is loaded here."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from tiny_task import NAME, FakeRunner, edit, final, make_tools, neighbours, write_task

from mlagent_lib import cli
from mlagent_lib.agents.ideas import draw_ideas
from mlagent_lib.arms import schedule as ablations
from mlagent_lib.arms import units as ablation_units
from mlagent_lib.arms.schedule import (
    CLOSE,
    FIRST_GUESS,
    MORE_SEEDS,
    ORDER,
    SEEDS,
    UnitFailed,
    family,
    plan,
    plan_lines,
    run,
    run_of,
)
from mlagent_lib.arms.units import Unit, charged_seconds, collected, units_of_seed
from mlagent_lib.core.arms import ARMS, GROUPS, METHODS, STARTS, arm_of, get_arm
from mlagent_lib.core.artifacts import SCHEMA
from mlagent_lib.core.errors import MlagentError, ProfileError, RunError
from mlagent_lib.core.files import FolderLock, append_jsonl, sha256_bytes, write_json
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.step import start_state
from mlagent_lib.results.claims import REWARD_PARTS, TASK_COUNTS
from mlagent_lib.reward import FORMS
from mlagent_lib.run.lab import Lab, chosen_ideas, ideas_for
from mlagent_lib.tasks.registry import find_task, list_tasks

# Arms as data -----------------------------------------------------------------------------------------------

# What each arm changes of the full method. How often the curve is measured (eval_every) is no such change.
CHANGED = {
    "base": {"start", "method"},  # nothing of the method is left
    "sft": {"method"},
    "full": set(),
    "rl-from-base": {"start"},
    "one-idea": {"start"},
    "random-start": {"start"},
    # one change: equal time is how this method is compared, and its batch has as many rollouts
    "episode-wise": {"method", "equal_time", "grpo.states_per_step", "grpo.group_size"},
    "episode-small": {"method", "equal_time", "grpo.states_per_step"},
    "reward-v1": {"grpo.reward_form"},
    "reward-v2": {"grpo.reward_form"},
    "no-performance": {"grpo.reward_form"},
    "no-format": {"grpo.reward_form"},
    "no-corner": {"grpo.reward_form"},
    "no-undo": {"start", "collect.undo_share"},  # one change: its expert never takes an edit back
    "no-thought": {"start", "common.reply_format"},  # one change: it is fine-tuned without thoughts too
    "tasks-3": {"tasks"},
    "tasks-6": {"tasks"},
    "pool-36": {"grpo.pool_size"},
    "mix-0": {"grpo.onpolicy_share"},
    "mix-50": {"grpo.onpolicy_share"},
    "mix-75": {"grpo.onpolicy_share"},
    "variance": {"grpo.focus_by"},
    "max-2": {"grpo.best_of"},
    **{f"made-{count}": {"made"} for count in (3, 9, 30, 100, 300)},
}
MEASURING = {"evaluate.k", "grpo.eval_every"}


def everything(arm):
    """Return all that makes an arm what it is, by name."""
    found = {name: getattr(arm, name) for name in ("start", "method", "tasks", "made", "equal_time")}
    constants = {f"{row['stage']}.{row['name']}": row["value"] for row in arm.profile().as_rows()}
    return found | {name: value for name, value in constants.items() if name not in MEASURING}


def test_each_arm_differs_from_the_full_method_in_one_thing():
    full = everything(get_arm("full"))
    found = {
        arm.name: {name for name, value in everything(arm).items() if value != full[name]} for arm in ARMS
    }
    assert found == CHANGED


def test_names_are_unique_and_every_arm_is_in_the_order_of_work_once():
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names) == 28
    assert sorted(ORDER) == sorted(names)
    assert set(FIRST_GUESS) == {family(unit) for unit in units_of_seed(0)}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_the_profile_of_each_arm_is_valid(arm):
    profile = arm.profile()
    assert profile.name == f"ablations/{arm.name}" and profile.grpo.reward_form in FORMS
    assert (profile.workers, profile.threads) == (1, 1)  # a unit has one core
    assert profile.evaluate.k == (8 if arm.group == "main" else get_profile("ablations").evaluate.k)
    assert arm.group in GROUPS and arm.start in STARTS and arm.method in METHODS
    assert arm.label and arm.question and arm.paper
    assert not (arm.method == "none" and (arm.tasks or arm.equal_time))


def test_the_subsets_of_tasks_are_nested_and_held_in():
    held_in = set(list_tasks("held-in"))
    three, six = (get_arm(name).tasks for name in ("tasks-3", "tasks-6"))
    assert set(three) < set(six) < held_in
    assert (len(set(three)), len(set(six)), len(held_in)) == (3, 6, 9)
    kinds = [Counter(find_task(name).modality for name in names) for names in (three, six)]
    assert kinds == [{"image": 1, "tabular": 1, "text": 1}, {"image": 2, "tabular": 3, "text": 1}]


def test_an_unknown_arm_lists_the_known_ones():
    with pytest.raises(ProfileError, match="arm 'ful' is unknown.*base, sft, full"):
        get_arm("ful")


# Units ------------------------------------------------------------------------------------------------------


def test_units_come_after_what_they_need_and_each_is_there_once():
    units = units_of_seed(3)
    names = [unit.name for unit in units]
    assert len(set(names)) == len(names) and {unit.seed for unit in units} == {3}
    # six collections, six starts, an arm each, one search
    assert Counter(unit.kind for unit in units) == {"collect": 6, "sft": 6, "arm": 28, "search": 1}
    for place, unit in enumerate(units):
        assert set(unit.needs) <= set(names[:place]), unit


def test_what_units_need():
    needs = {unit.name: set(unit.needs) for unit in units_of_seed(0)}
    assert needs["collect-far-apart"] == needs["collect-one-idea"] == set()
    assert needs["sft-none"] == needs["sft-far-apart"] == {"collect-far-apart"}
    assert needs["sft-one-idea"] == {"collect-far-apart", "collect-one-idea"}
    assert needs["arm-one-idea"] == {"collect-far-apart", "sft-one-idea"}  # RL is on the same states for all
    assert needs["arm-no-thought"] == {"collect-far-apart", "sft-no-thought"}
    assert needs["arm-episode-wise"] == needs["arm-episode-small"]
    assert needs["arm-episode-wise"] == {"collect-far-apart", "sft-far-apart", "arm-full"}  # its seconds
    assert needs["search"] == {"sft-far-apart", "arm-full"}
    own = {"far-apart", "one-idea", "random-ideas", "no-thought", "no-undo"}
    assert {collected(start) for start in STARTS} == own


def test_a_unit_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation_units, "_end_with", lambda parent: None)  # it would watch over pytest
    with pytest.raises(ProfileError, match="unit 'arm-nothing' is unknown"):
        ablation_units.main(["0", "arm-nothing", str(tmp_path)])
    with pytest.raises(ProfileError, match="unit 'nothing' is unknown.*collect, sft, arm, search"):
        ablation_units.make_unit(Unit(0, "nothing"), str(tmp_path), print)
    assert not list(tmp_path.iterdir())


def test_charged_seconds_are_those_of_the_updates(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for split, seconds in (("holdout", None), ("train", 1.5), ("train", 2.25), ("holdout", None)):
        append_jsonl(path, {"split": split} | ({"seconds_charged": seconds} if seconds else {}))
    assert charged_seconds(path) == 3.75


@pytest.fixture
def lab(tmp_path):
    task = write_task(tmp_path / "tasks")
    found = Lab(
        get_profile("ablations"), 0, tmp_path / "run", FakeRunner(), ExecutionCache(tmp_path / "cache"),
        {NAME: task},
    )  # fmt: skip
    found.run_dir.mkdir()
    return found


def test_ideas_of_each_start(lab):
    task = lab.task(NAME)
    far, drawn = chosen_ideas(lab, task), ideas_for(lab, task, "random-ideas")
    assert ideas_for(lab, task, "far-apart") == far == ideas_for(lab, task, "no-thought")
    assert {axis: len(ideas) for axis, ideas in drawn.items()} == {a: len(ideas) for a, ideas in far.items()}
    assert drawn != far and all(idea.axis == axis for axis, ideas in drawn.items() for idea in ideas)
    assert all(len({idea.key for idea in ideas}) == len(ideas) for ideas in drawn.values())
    assert (
        drawn == ideas_for(lab, task, "random-ideas") != ideas_for(replace(lab, seed=1), task, "random-ideas")
    )
    one = ideas_for(lab, task, "one-idea")
    assert len(one) == 1 and one == ideas_for(lab, task, "one-idea")
    assert all(draw_ideas(one, rng(0, "any", index)) == one for index in range(5))


def test_blame_is_what_the_exact_coder_makes_of_the_same_replies(lab, tmp_path):
    start = start_state(lab.task(NAME), make_tools(tmp_path))
    stage = lab.stage("arm-full")
    rows = [
        (neighbours(8), "corner", "coder", 0.5),  # the model as coder refused: 5.0 to 1.0 with the exact one
        (neighbours(48), "edited", "scored", 0.0),  # worse, whoever writes it
        (edit("Make it good."), "corner", "coder", 0.5),  # the exact coder refuses it too
        (final(), "neutral", "valid", 0.5),  # no edit: not in the table
        (neighbours(8), "unscored", "execution", None),
    ]
    for reply, outcome, reason, reward in rows:
        row = {"task": NAME, "state_id": start.id, "outcome": outcome, "reason": reason}
        append_jsonl(stage.path("rl_steps.jsonl"), row | {"reward": reward, "reply": reply})
    table = ablation_units.blame_table(lab, stage, get_arm("full"), [start])
    assert list(table["exact_outcome"]) == ["edited", "edited", "corner"]
    assert table["exact_reward"].round(6).tolist() == [1.0, 0.0, 0.5]
    assert list(table["outcome"]) == ["corner", "edited", "corner"] and set(table["state"]) == {start.id}


# The plan ---------------------------------------------------------------------------------------------------


def finish(runs_dir, name: str, seconds: float, seed: int = 0):
    """Write the folder of a finished unit and return it."""
    folder = run_of(runs_dir, seed) / name
    folder.mkdir(parents=True)
    (folder / "out.txt").write_text(name)
    manifest = {"schema": SCHEMA, "params": {}, "inputs": {}, "wall_s": seconds}
    outputs = {"out.txt": {"sha256": sha256_bytes(name.encode())}}
    write_json(folder / "manifest.json", manifest | {"outputs": outputs})
    return folder


def names(units):
    return [unit.name for unit in units]


def test_a_plan_holds_the_wanted_arms_with_what_they_need_the_first_arms_first(tmp_path):
    at = plan(tmp_path, (0, 1), ["full", "sft"])  # the order of work, not that of the words
    start = ["collect-far-apart", "sft-far-apart", "arm-sft"]
    assert names(at.units) == [*start, *start, "arm-full", "arm-full"]
    assert [unit.seed for unit in at.units] == [0, 0, 0, 1, 1, 1, 0, 1]
    assert not at.done and at.left == list(at.units)
    equal_time = names(plan(tmp_path, (0,), ["episode-small"]).units)
    assert equal_time == ["collect-far-apart", "sft-far-apart", "arm-full", "arm-episode-small"]


def test_the_whole_plan_is_every_unit_once_in_an_order_that_works(tmp_path):
    units = plan(tmp_path, (0, 1, 2)).units
    assert len(units) == len(set(units)) == 3 * 41
    for place, unit in enumerate(units):
        assert all(is_there(units[:place], unit.seed, need) for need in unit.needs), unit
    assert names(units[-3:]) == ["search"] * 3
    arms = [unit for unit in units if unit.kind == "arm"]
    assert [(unit.name, unit.seed) for unit in arms[:6]] == [
        (f"arm-{name}", seed) for name in ("sft", "full") for seed in (0, 1, 2)
    ]


def test_without_seeds_the_close_claims_have_five_and_the_rest_three(tmp_path):
    units = plan(tmp_path).units
    assert units[: 3 * 41] == plan(tmp_path, SEEDS).units and SEEDS == (0, 1, 2)
    more = units[3 * 41 :]
    assert {unit.seed for unit in more} == {3, 4} == set(MORE_SEEDS)
    # C4: sft, full, RL from base; C5: the parts of the reward; C6: number of tasks; C7: sft, full
    wanted = {*(arm_of(who).name for who in TASK_COUNTS), *REWARD_PARTS, "rl-from-base"}
    assert {unit.name.removeprefix("arm-") for unit in more if unit.kind == "arm"} == wanted == set(CLOSE)
    assert len(more) == 2 * (8 + 3)  # eight arms, one collection, two starts
    for place, unit in enumerate(units):
        assert all(is_there(units[:place], unit.seed, need) for need in unit.needs), unit
    assert [unit.seed for unit in plan(tmp_path, arms=["base"]).units if unit.name == "arm-base"] == [0, 1, 2]
    assert [u.seed for u in plan(tmp_path, arms=["sft"]).units if u.kind == "arm"] == [0, 1, 2, 3, 4]


def is_there(units, seed, name):
    return any((unit.seed, unit.name) == (seed, name) for unit in units)


def test_finished_units_are_kept_and_the_rest_is_estimated_by_hand(tmp_path):
    arms = ["sft", "full", "tasks-3", "base"]
    at = plan(tmp_path, (0, 1), arms)
    # two seeds of: 45 collect, 45 + 45 two starts, 190 + 190 measured, 800 + 800 trained
    assert at.minutes_left(1) == pytest.approx(2 * 2115 / 60)
    finish(tmp_path, "collect-far-apart", 30.0)
    finish(tmp_path, "sft-far-apart", 100.0)
    finish(tmp_path, "arm-sft", 180.0)
    finish(tmp_path, "arm-full", 500.0)
    at = plan(tmp_path, (0, 1), arms)
    assert sorted(names(at.done)) == ["arm-full", "arm-sft", "collect-far-apart", "sft-far-apart"]
    expected = {(unit.seed, unit.name): at.expected(unit) for unit in at.left}
    assert expected == {
        (1, "collect-far-apart"): 30.0, (1, "sft-far-apart"): 100.0, (1, "arm-sft"): 180.0,
        (1, "arm-full"): 500.0,  # their like
        (0, "arm-base"): 180.0, (1, "arm-base"): 180.0, (0, "sft-none"): 100.0, (1, "sft-none"): 100.0,
        (0, "arm-tasks-3"): 500.0, (1, "arm-tasks-3"): 500.0,  # their kind
    }  # fmt: skip
    assert at.minutes_left(1) == pytest.approx(2370 / 60) and at.minutes_left(2) == pytest.approx(1185 / 60)
    finish(tmp_path, "arm-tasks-3", 340.0, seed=1)
    at = plan(tmp_path, (0, 1), arms)
    like = next(unit for unit in at.left if unit.name == "arm-tasks-3")
    other = next(unit for unit in at.left if unit.name == "arm-full")
    assert (at.expected(like), at.expected(other)) == (340.0, 500.0)
    assert at.expected(Unit(0, "arm-mix-0")) == 420.0  # the mean of its kind
    assert at.expected(Unit(0, "search")) == FIRST_GUESS["search"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").write_text('{"schema": "mlagent'),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "out.txt").write_text("changed"),
        lambda folder: (folder / "out.txt").unlink(),
    ],
)
def test_a_damaged_unit_is_left_to_do(tmp_path, damage):
    finish(tmp_path, "collect-far-apart", 30.0)
    damage(finish(tmp_path, "sft-far-apart", 100.0))
    at = plan(tmp_path, (0,), ["sft"])
    assert names(at.done) == ["collect-far-apart"] and names(at.left) == ["sft-far-apart", "arm-sft"]
    assert at.expected(at.left[0]) == FIRST_GUESS["sft"]  # nor does it tell how long its like takes


def test_the_lines_of_a_plan(tmp_path):
    assert plan_lines(plan(tmp_path, (0,), ["sft"]), 1) == [
        "0 of 3 units are finished; 3 left, about 0:05 h with 1 at once",  # 45 + 45 + 190 seconds
        "  collect-far-apart seed 0: about 45 s",
        "  sft-far-apart seed 0: about 45 s",
        "  arm-sft seed 0: about 190 s",
    ]
    for name in ("collect-far-apart", "sft-far-apart", "arm-sft"):
        finish(tmp_path, name, 4000.0)
    assert plan_lines(plan(tmp_path, (0,), ["sft"])) == ["3 of 3 units are finished; nothing is left"]
    long = plan_lines(plan(tmp_path, (0, 1), ["sft"]), 2)
    assert long[0] == "3 of 6 units are finished; 3 left, about 1:40 h with 2 at once"  # 12000 s, two at once


# Starting units ---------------------------------------------------------------------------------------------

FAKE = """
import hashlib, json, os, pathlib, sys, time
seed, name, runs, notes, failing, sleeping = sys.argv[1:]
note = pathlib.Path(notes, f"{seed}-{name}-{os.getpid()}")
note.write_text(os.environ["TMPDIR"] + " " + os.environ["OMP_NUM_THREADS"])
print("at work", flush=True)
if name in sleeping.split(","):
    time.sleep(300)
if name in failing.split(","):
    sys.exit("it broke")
folder = pathlib.Path(runs, f"ablations-seed{seed}", name)
folder.mkdir(parents=True)
outputs = {"o": {"sha256": hashlib.sha256(b"o").hexdigest()}}
(folder / "o").write_bytes(b"o")
row = {"schema": "mlagent.manifest/1", "params": {}, "inputs": {}, "outputs": outputs, "wall_s": 1.0}
(folder / "manifest.json").write_text(json.dumps(row))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Let a few lines of Python stand for every unit; return how to say which of them shall fail."""
    notes = tmp_path / "notes"
    notes.mkdir()

    def set_up(*failing: str, sleeping: tuple[str, ...] = ()):
        def command(unit, runs_dir):
            words = [str(unit.seed), unit.name, str(runs_dir), str(notes), ",".join(failing)]
            return [sys.executable, "-S", "-E", "-c", FAKE, *words, ",".join(sleeping)]

        monkeypatch.setattr(ablations, "_command", command)

    def started():
        return sorted(path.name.split("-", 1)[1].rsplit("-", 1)[0] for path in notes.iterdir())

    set_up.started, set_up.notes = started, notes
    set_up()
    return set_up


def alive(notes) -> list[str]:
    """Return which of the started units still run."""
    found = []
    for path in notes.iterdir():
        try:
            os.kill(int(path.name.rsplit("-", 1)[1]), 0)
        except ProcessLookupError:
            continue
        found.append(path.name)
    return found


MADE = ["arm-rl-from-base", "collect-far-apart", "sft-none"]
ARMS_RUN = ["sft", "full", "rl-from-base"]


def test_units_are_started_in_order_and_finished_ones_are_not_started_again(fake, tmp_path):
    lines = []
    at = run(tmp_path / "runs", (0,), arms=ARMS_RUN, jobs=2, say=lines.append)
    assert at.left == [] and len(at.done) == 6 == len(fake.started())
    assert lines[0].startswith("0 of 6 units are finished; 6 left, about 0:")
    assert lines[-1].startswith("[6/6] ") and lines[-1].endswith("; nothing is left")
    places = {line.split("] ")[1].split(" seed")[0]: place for place, line in enumerate(lines[1:])}
    for unit in at.units:
        assert all(places[need] < places[unit.name] for need in unit.needs)
    for note in fake.notes.iterdir():
        scratch, threads = note.read_text().split()
        assert threads == "1" and not os.path.exists(scratch)  # a core each, and no temporary file is left
    again = run(tmp_path / "runs", (0,), arms=ARMS_RUN, jobs=2, say=lines.append)
    assert again == at and len(fake.started()) == 6
    assert lines[-1] == "6 of 6 units are finished; nothing is left"


def test_a_failed_unit_is_named_what_needs_it_is_left_out_and_the_rest_is_made(fake, tmp_path):
    fake("sft-far-apart")
    runs, lines = tmp_path / "runs", []
    with pytest.raises(UnitFailed) as failed:
        run(runs, (0,), arms=ARMS_RUN, jobs=2, say=lines.append)
    text = str(failed.value)
    assert text.startswith("3 units failed: sft-far-apart (seed 0), arm-sft (seed 0), arm-full (seed 0).")
    assert "ablations-logs" in text and "finished units are kept" in text and failed.value.exit_code == 1
    assert fake.started() == sorted([*MADE, "sft-far-apart"])  # nothing that needs it was tried
    assert sorted(names(plan(runs, (0,), ARMS_RUN).done)) == MADE
    assert sum("is left out: what it needs has failed" in line for line in lines) == 2
    assert any(line.startswith("sft-far-apart (seed 0): failed after") for line in lines)
    log = (runs / "ablations-logs" / "seed0-sft-far-apart.log").read_text()
    assert log == "at work\nit broke\n" and alive(fake.notes) == []
    fake()
    assert run(runs, (0,), arms=ARMS_RUN, jobs=1, say=lines.append).left == []
    assert Counter(fake.started()) == Counter(
        [*MADE, "sft-far-apart", "sft-far-apart", "arm-sft", "arm-full"]
    )


def test_an_interruption_leaves_no_unit_running(fake, tmp_path):
    fake(sleeping=("sft-far-apart",))

    def say(line):
        if line.startswith("[2/6] sft-none"):  # while the other start is still being made
            deadline = time.monotonic() + 60
            while "sft-far-apart" not in fake.started() and time.monotonic() < deadline:
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "runs", (0,), arms=ARMS_RUN, jobs=2, say=say)
    assert "sft-far-apart" in fake.started() and alive(fake.notes) == []


def test_a_unit_ends_once_its_parent_has_gone(monkeypatch):
    parents, ended = iter([123, 1]), queue.Queue()
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))
    monkeypatch.setattr(os, "kill", lambda process, number: ended.put((process, number)))
    ablation_units._end_with(123)
    assert ended.get(timeout=60) == (os.getpid(), signal.SIGTERM)
    assert next(parents, None) is None and ended.empty()


def test_one_folder_has_one_master(fake, tmp_path):
    with FolderLock(tmp_path / "runs" / ".ablations"), pytest.raises(RunError, match="in use by another"):
        run(tmp_path / "runs", (0,), arms=["sft"], jobs=1, say=print)
    assert fake.started() == []


def test_a_negative_number_of_jobs_is_refused(tmp_path):
    with pytest.raises(ProfileError, match="jobs is -1"):
        run(tmp_path, (0,), jobs=-1)


def test_units_are_started_as_modules_of_this_package(tmp_path):
    words = ablations._command(Unit(2, "arm-full"), tmp_path)
    assert words == [sys.executable, "-m", "mlagent_lib.arms.units", "2", "arm-full", str(tmp_path)]


# The command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ablations", "--arms", "full", "ful"], "arm 'ful' is unknown. What to do: choose of base, sft"),
        (["ablations", "--jobs", "-2"], "jobs is -2"),
        (
            ["ablations", "--gather"],
            "holds no finished arm. What to do: run 'mlagent run --profile ablations'",
        ),
        (["run", "--profile", "ablations", "--seed", "3"], "it takes no --seed"),
        (["run", "--profile", "ablations", "--run-id", "x"], "no --run-id"),
        (["run", "--profile", "ablations", "-p", "steps=3"], "no parameter but seeds and jobs"),
        (["run", "--profile", "ablations", "-p", "seeds=many"], "parameter seeds is 'many'"),
        (["run", "--profile", "ablations", "-p", "seeds=0"], "parameter seeds is 0"),
        (["run", "--profile", "ablations", "-p", "jobs=true"], "parameter jobs is True"),
    ],
)
def test_mistakes_of_the_command_get_one_line_and_code_2(tmp_path, capsys, words, expected):
    assert cli.main([*words, "--runs-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mlagent: ") and error.count("\n") == 1 and expected in error


def test_the_plan_is_printed_and_nothing_is_started(tmp_path, capsys):
    finish(tmp_path, "collect-far-apart", 30.0)
    words = [
        "ablations",
        "--plan",
        "--arms",
        "sft",
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--runs-dir",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 3 units are finished; 2 left, about 0:04 h with 1 at once"
    assert lines[1:] == ["  sft-far-apart seed 0: about 45 s", "  arm-sft seed 0: about 190 s"]
    assert [path.name for path in tmp_path.iterdir()] == ["ablations-seed0"]


def test_a_failed_unit_ends_the_command_with_code_1(fake, tmp_path, capsys):
    fake("collect-far-apart")
    words = [
        "ablations",
        "--arms",
        "sft",
        "--seeds",
        "0",
        "--jobs",
        "1",
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    assert cli.main(words) == 1
    assert "3 units failed: collect-far-apart (seed 0)" in capsys.readouterr().err


def test_run_with_the_profile_is_the_same_command(monkeypatch, tmp_path, capsys):
    from mlagent_lib.arms import finish as ablations_report

    asked = []
    monkeypatch.setattr(ablations, "run", lambda runs_dir, seeds, **more: asked.append((seeds, more["jobs"])))

    def finished(runs_dir, out, seeds, *, notebooks, add):
        asked.append((out.relative_to(runs_dir).as_posix(), seeds, notebooks, add))
        return ["the end"]

    monkeypatch.setattr(ablations_report, "finish", finished)
    words = ["run", "--profile", "ablations", "--runs-dir", str(tmp_path)]
    assert cli.main(words) == 0
    assert cli.main([*words, "-p", "seeds=5", "-p", "jobs=3"]) == 0
    assert asked == [
        (None, 0), ("ablations", None, True, False),
        ([0, 1, 2, 3, 4], 3), ("ablations", [0, 1, 2, 3, 4], True, False),
    ]  # fmt: skip
    assert capsys.readouterr().out == "the end\n" * 2
    assert issubclass(UnitFailed, MlagentError)
