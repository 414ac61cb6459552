"""A run on tasks of one's own: roles, names and folders are checked first, and kept with the run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fake_openai import FakeOpenAI
from tiny_task import CARD, NAME, TRAIN, FakeRunner, write_task

from mlagent_lib.agents.ideas import candidate_ideas
from mlagent_lib.agents.policies import RandomIdeas
from mlagent_lib.cli import main
from mlagent_lib.core.artifacts import NOTEBOOKS as STORY
from mlagent_lib.core.artifacts import OWN_TASKS
from mlagent_lib.core.errors import CoderError, EndpointError, ProfileError, RunError, TaskError
from mlagent_lib.environment.coder import EditRequest, RuleCoder
from mlagent_lib.run import lab as labs
from mlagent_lib.run.lab import Agent, RulesFirst, chosen_ideas, collect, evaluate, idea_coder, open_lab
from mlagent_lib.run.notebook_tables import coder_sentence, coder_table
from mlagent_lib.run.notebooks import run_all
from mlagent_lib.run.stages import coder_check


@pytest.fixture
def folders(tmp_path):
    """Return the folders of two tasks, the second a copy under another name."""
    first = Path(write_task(tmp_path / "tasks").folder)
    second = tmp_path / "tasks" / "other-homes"
    shutil.copytree(first, second)
    card = second / "task.yaml"
    card.write_text(card.read_text().replace(NAME, "other-homes"))
    return str(first), str(second)


def start(folders, tmp_path, **more):
    train, test = folders
    return run_all(
        "smoke", 0, tmp_path / "runs", "own", tasks={"train": [train], "test": [test]}, notebooks=(),
        write_report=lambda _: None, say=lambda _: None, **more,
    )  # fmt: skip


def test_the_run_keeps_its_tasks_and_a_lab_takes_them_with_their_roles(folders, tmp_path):
    run_dir = start(folders, tmp_path)
    assert json.loads((run_dir / OWN_TASKS).read_text()) == {"train": [folders[0]], "test": [folders[1]]}
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
    try:
        assert [task.name for task in lab.tasks(lab.profile.collect.tasks)] == [NAME]
        roles = {task.name: task.split for task in lab.tasks(lab.profile.evaluate.tasks)}
        assert roles == {NAME: "held-in", "other-homes": "held-out"}
        assert lab.task("other-homes").folder == Path(folders[1]), "a bare name is found again"
    finally:
        lab.close()


def test_other_tasks_need_another_run(folders, tmp_path):
    start(folders, tmp_path)
    start(folders, tmp_path)
    with pytest.raises(RunError, match="was made with tasks"):
        start(folders[::-1], tmp_path)


def test_two_tasks_of_one_name_and_unknown_folders_are_refused(folders, tmp_path):
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "names")
    try:
        with pytest.raises(ProfileError, match="two tasks are named 'tiny-homes'"):
            lab.adopt([folders[0]], [folders[0]])
    finally:
        lab.close()
    with pytest.raises(ProfileError, match="two tasks are named 'tiny-homes'"):
        run_all("smoke", 0, tmp_path / "runs", "two", tasks={"train": [folders[0]] * 2}, notebooks=())
    with pytest.raises(TaskError, match="no task folder"):
        start((str(tmp_path / "nowhere" / "x"), folders[1]), tmp_path)
    with pytest.raises(ProfileError, match="no task is given to train on"):
        run_all("smoke", 0, tmp_path / "runs", "none", tasks={"test": [folders[1]]}, notebooks=())


def test_the_command_line_says_what_test_tasks_need(capsys):
    assert main(["run", "--test-tasks", "pocket-homes"]) == 2
    assert "--test-tasks needs --tasks" in capsys.readouterr().err


# ---- tasks that no catalogue fits ------------------------------------------------------------------------

BARE = TRAIN.replace("# data\n", "").replace("# model\n", "")  # no pocket blocks


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Return the folders of two tasks without a catalogue, to train and to test on."""
    monkeypatch.setattr(labs, "Runner", lambda workers: FakeRunner())
    card = CARD.replace("split: held-in", "split: other").replace("kind: regression", "kind: other")
    first = Path(write_task(tmp_path / "tasks", train_py=BARE, card=card + "starter: main.py\n").folder)
    (first / "env" / "train.py").rename(first / "env" / "main.py")
    second = shutil.copytree(first, tmp_path / "tasks" / "other-homes")
    (second / "task.yaml").write_text((first / "task.yaml").read_text().replace(NAME, "other-homes"))
    return str(first), str(second)


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "ideas.txt"
    path.write_text("Use 8 nearest neighbours, please.\nUse 16 nearest neighbours, please.\n")
    return str(path)


def begin(folders, tmp_path, run_id="own", say=lambda _: None, **parameters):
    train, test = folders
    return run_all(
        "smoke", 0, tmp_path / "runs", run_id, tasks={"train": [train], "test": [test]}, notebooks=NOTEBOOKS,
        notebooks_dir=Path(__file__).parent.parent / "notebooks", parameters=parameters, say=say,
        write_report=lambda _: None,
    )  # fmt: skip


NOTEBOOKS = (("01_collection.ipynb", ()),)


@pytest.fixture
def no_notebooks(monkeypatch):
    """Let a run begin without executing anything; return what would have been executed, with its values."""
    from mlagent_lib.run import notebooks as pipeline

    begun = []
    monkeypatch.setattr(
        pipeline._Notebook, "execute", lambda self: begun.append((self.source.name, self.values)) or 0.0
    )
    return begun


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {},
            "no catalogue of ideas fits the tasks tiny-homes, other-homes.*-p ideas=FILE.*-p expert=openai:",
        ),
        ({"ideas": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"expert": "random"}, "'random' is not the name of an endpoint"),
        ({"coder": "openai:m@ftp://x"}, "'openai:m@ftp://x' is not the name of an endpoint"),
    ],
)
def test_what_is_missing_is_said_before_the_first_notebook(bare, tmp_path, no_notebooks, more, words):
    with pytest.raises((TaskError, EndpointError), match=words):
        begin(bare, tmp_path, **more)
    assert no_notebooks == [] and not (tmp_path / "runs").exists()


def test_a_list_lets_the_run_begin_and_a_coder_that_cannot_help_is_named(
    bare, tmp_path, no_notebooks, listed, monkeypatch
):
    told = []
    monkeypatch.chdir(tmp_path)
    begin(bare, tmp_path, say=told.append, ideas="ideas.txt")
    assert no_notebooks[0][1]["ideas"] == listed  # notebooks work elsewhere
    assert "edits of tiny-homes, other-homes will fail" in told[0] and "-p coder=openai:" in told[0]
    told.clear()
    begin(bare, tmp_path, "two", told.append, ideas="ideas.txt", coder="openai:m@http://127.0.0.1:9/v1")
    begin(
        bare,
        tmp_path,
        "three",
        told.append,
        expert="openai:m@http://127.0.0.1:9/v1",
        coder="openai:m@http://h/v1",
    )
    assert not any("note" in line for line in told)


def test_a_list_that_no_task_needs_is_said_to_be_unused(folders, tmp_path, no_notebooks, listed):
    told = []
    begin(folders, tmp_path, say=told.append, ideas=listed)
    assert "the list of ideas is not used" in told[0]
    with pytest.raises(ProfileError, match="for tasks of your own.*--tasks"):
        run_all("smoke", 0, tmp_path / "none", parameters={"ideas": listed})
    assert not (tmp_path / "none").exists()


class EveryEdit:
    """Puts the number of an instruction into the script."""

    name = "every"

    def __init__(self):
        self.asked = []

    def edit_many(self, requests):
        self.asked += [request.instruction for request in requests]
        return [
            re.sub(
                r"n_neighbors=\d+",
                f"n_neighbors={re.findall(r'[0-9]+', request.instruction)[0]}",
                request.script,
            )
            for request in requests
        ]


def test_a_run_on_listed_ideas_from_collection_to_evaluation(
    bare, tmp_path, listed, monkeypatch, no_notebooks
):
    begin(bare, tmp_path, ideas=listed)
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
    assert lab.profile.script_seconds == 6.0  # the cards' 5 seconds are fewer
    lab.find_ideas(listed)
    Path(listed).unlink()
    lab.find_ideas(listed)  # nothing is asked for twice
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")  # the next notebook
    task = lab.task(NAME)
    assert {task.name for task in lab.without_catalogue()} == {NAME, "other-homes"}
    assert [idea.text for idea in candidate_ideas(task)] == [
        "Use 8 nearest neighbours, please.", "Use 16 nearest neighbours, please.",
    ]  # fmt: skip
    assert len(chosen_ideas(lab, task)) == 2  # one axis only: several ideas may go into one trajectory
    coder = EveryEdit()
    monkeypatch.setattr(labs, "idea_coder", lambda lab: RulesFirst(coder))
    rows = collect(lab, tmp_path / "trajectories.jsonl")
    ends = [step for row in rows for step in row["steps"] if step["outcome"] == "edited"]
    assert ends and all(step["action_input"]["save_name"] == "main.py" for step in ends)
    assert {step["score_after"] for step in ends} <= {1.0, 2.0} and all(
        step["script_before"] for step in ends
    )
    held = evaluate(lab, "random-ideas", RandomIdeas(), lab.tools(coder), tmp_path / "evaluated.jsonl")
    assert {row["task"] for row in held} == {NAME, "other-homes"}
    monkeypatch.setattr("mlagent_lib.training.backends.base_coder", lambda *_, **__: coder)
    table = coder_check(lab, Agent(None, None, None, None))
    assert list(table.columns) == ["task", "axis", "instruction", "result"] and table.empty
    assert "no task has a catalogue" in coder_sentence(coder_table(table))


def test_ideas_from_an_endpoint_are_asked_for_once_and_kept(bare, tmp_path, no_notebooks):
    def ideas(messages):
        axis = re.search(r"concern only the (\w+)", messages[0]["content"]).group(1)
        return "[advice]\n" + "\n".join(f"Try the {axis} change number {n} of many." for n in range(40))

    with FakeOpenAI(ideas) as server:
        spec = f"openai:fake@{server.base_url}"
        begin(bare, tmp_path, expert=spec)
        lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
        lab.find_ideas("", spec)
        assert len(server.requests) == 3  # one an axis: the two tasks ask for the same
        open_lab("smoke", 0, str(tmp_path / "runs"), "own").find_ideas("", spec)
        assert len(server.requests) == 3
    found = open_lab("smoke", 0, str(tmp_path / "runs"), "own").task("other-homes").ideas
    assert len(found) == 120 and {axis for axis, _ in found} == {"data", "model", "learning"}


def test_the_seconds_of_a_foreign_card_are_not_cut(bare, tmp_path, no_notebooks, listed):
    card = Path(bare[0]) / "task.yaml"
    card.write_text(card.read_text().replace("seconds: 5", "seconds: 90"))
    begin(bare, tmp_path, ideas=listed)
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
    assert lab.profile.script_seconds == 90.0


def test_the_catalogue_goes_first_and_the_other_coder_gets_the_rest(folders, tmp_path):
    task = open_lab("smoke", 0, str(tmp_path / "runs"), "x").task(folders[0])
    other = EveryEdit()
    requests = [
        EditRequest(task, TRAIN, text) for text in ("Use 12 nearest neighbours.", "Take 3 of them, please!")
    ]
    made = RulesFirst(other).edit_many(requests)
    assert "n_neighbors=12" in made[0] and "n_neighbors=3)" in made[1]
    assert other.asked == ["Take 3 of them, please!"]
    assert isinstance(RuleCoder().edit_many(requests)[1], CoderError)


def test_pocket_runs_keep_the_exact_coder(folders, tmp_path):
    start(folders, tmp_path)
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
    assert type(idea_coder(lab)) is RuleCoder and lab.without_catalogue() == []
    lab.profile = replace(lab.profile, coder="openai:m@http://127.0.0.1:9/v1")
    assert type(idea_coder(lab)) is RuleCoder


LAW = """import pandas as pd

test = pd.read_csv("test.csv")
guess = 3 * test["x"] + 1
print("validation mae: 0.0")
pd.DataFrame({"id": test["id"], "y": guess}).to_csv("submission.csv", index=False)
"""


@pytest.mark.slow
def test_foreign_folders_go_through_training_and_evaluation_to_a_report(tmp_path, capsys):
    shape = Path(__file__).parent / "foreign" / "mlagentbench_task"
    folders = [shutil.copytree(shape, tmp_path / name) for name in ("springs", "coils")]
    for folder in map(str, folders):
        assert main(["tasks", "prepare", folder]) == 0
        assert main(["tasks", "adopt", folder, "--better", "lower", "--best", "0"]) == 0
    ideas = tmp_path / "ideas.txt"
    ideas.write_text("Use the law of the spring.\nFit a straight line.\nLook at x only.\n")
    with FakeOpenAI(lambda messages: f"```python\n{LAW}```") as server:
        run_dir = run_all(
            "smoke", 0, tmp_path / "runs", "foreign", tasks={"train": folders[:1], "test": folders[1:]},
            notebooks=STORY[1:5], say=lambda _: None,
            parameters={"ideas": str(ideas), "coder": f"openai:fake@{server.base_url}"},
        )  # fmt: skip
        assert server.requests
    table = pd.read_csv(run_dir / "04_evaluation" / "tasks.csv").set_index(["policy", "task"])
    # the starter is off by 7.2, the law by nothing: random ideas reach it in their first step
    assert table.loc[("starter", "coils"), "avg_at_k"] == pytest.approx(7.2)
    assert table.loc[("random-ideas", "coils"), "gap_closed"] == pytest.approx(1.0)
    assert (run_dir / "report.html").is_file()
