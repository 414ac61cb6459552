"""A folder in the shape of MLAgentBench: prepared, checked, adopted, acted in; every failure explained."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from fake_openai import FakeOpenAI
from tiny_task import edit, final, graded, make_tools, reply, result

from mlagent_lib.agents.ideas import Idea
from mlagent_lib.agents.policies import ChatPolicy, ScriptedExpert
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.server.endpoint import ChatEndpoint
from mlagent_lib.cli import main
from mlagent_lib.core.errors import SubmissionError, TaskError, Unscored
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.coder import CHAT_INSTRUCTIONS, ChatCoder
from mlagent_lib.environment.env import Environment
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import Runner, RunRequest, probe
from mlagent_lib.environment.step import run_step, run_steps, start_state, task_request
from mlagent_lib.results.evaluation import TaskScale, task_table, trajectory_table
from mlagent_lib.tasks import env_folder
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.foreign import grader as foreign_grader
from mlagent_lib.tasks.foreign import known_tasks, mlagentbench, old_code
from mlagent_lib.tasks.foreign.check_grader import read_grader
from mlagent_lib.tasks.foreign.grader import ForeignGrader, nonsense_score, run_grader
from mlagent_lib.tasks.foreign.mlagentbench import adopt_folder
from mlagent_lib.tasks.foreign.prepare import MARKER, prepare_folder
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import load_task

judge = ForeignGrader.judge
SHAPE = Path(__file__).parent / "foreign" / "mlagentbench_task"
NAME = "springs"
LIMITS = Limits(seconds=10)
STARTER_ERROR = 7.2  # worked by hand in the folder's README
STATED = {"greater_is_better": False, "limits": LIMITS, "metric": "mae", "best": 0.0}


def submission(*lengths: float) -> bytes:
    return ("id,y\n" + "".join(f"{i},{y}\n" for i, y in enumerate(lengths))).encode()


STARTERS = submission(16, 16, 16, 16, 16)
GOLD = submission(4, 10, 16, 22, 28)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = shutil.copytree(SHAPE, tmp_path_factory.mktemp("benchmark") / NAME)
    assert prepare_folder(folder) is True
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """Return a copy of the prepared folder that a test may spoil."""
    return shutil.copytree(prepared, tmp_path / NAME)


@pytest.fixture
def task(folder):
    return load_task(folder, **STATED)


@pytest.fixture(scope="module")
def runner():
    with Runner(workers=1) as one:
        yield one


def of(script: str, folder: Path, **more) -> ForeignGrader:
    """Return a grader with this text."""
    path = folder / "scripts" / "eval.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    return ForeignGrader(path, **more)


# ---- the folder is read unchanged --------------------------------------------------------------------


def test_a_folder_loads_unchanged_and_nothing_is_guessed(task, folder):
    assert (task.name, task.kind, task.modality, task.metric) == (NAME, "other", "other", "mae")
    assert task.one_label_set and task.grader.script == folder / "scripts" / "eval.py"
    assert (
        task.best == {"feedback": 0.0, "report": 0.0}
        and "lower the mean absolute error" in task.research_problem
    )
    with pytest.raises(TaskError, match=r"direction and limits are not known.*adopt"):
        load_task(folder)
    with pytest.raises(TaskError, match="its limits are not known"):
        load_task(folder, greater_is_better=False)


def test_texts_are_copied_and_data_are_read_by_reference(task, folder):
    assert sorted(task.env_files()) == ["data_description.txt", "test.csv", "train.csv", "train.py"]
    assert task.links == ("pictures",) and task.data_dir == folder.resolve() / "env"


def test_known_folders_need_no_direction_and_bring_their_source(prepared, tmp_path):
    known = shutil.copytree(prepared, tmp_path / "house-price")
    task = load_task(known, limits=LIMITS)
    assert not task.greater_is_better and task.metric == "mae" and task.best["report"] == 17373
    assert "2505.23723" in task.best_provenance
    turned = load_task(known, greater_is_better=True, limits=LIMITS)
    assert (
        turned.metric == "score" and not turned.best
    )  # the caller is right, so what is known is not about it
    for row in known_tasks.known_folders().values():
        assert (row.best is None) == (not row.source)


def make(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_what_is_copied_and_what_is_linked(tmp_path):
    big, small = "x" * (env_folder.LARGEST_READ_ONLY + 1), "x"
    env = make(tmp_path / "env", {
        "train.py": "pass", "locked.csv": big, "open.csv": big, 
        "huge.csv": "x" * (env_folder.LARGEST_TEXT + 1),
        "weights.bin": b"\0\1", "src/model.py": "pass", "src/table.npy": b"\0", "texts/1.txt": small,
        "data/train.csv": small, **{f"many/{i}.txt": small for i in range(env_folder.MOST_IN_FOLDER + 1)},
        "src/__pycache__/model.pyc": b"\0", "submission.csv": big,
    })  # fmt: skip
    files, links = env_folder.divide(env, ("./locked.csv",))
    assert sorted(files) == ["open.csv", "src/model.py", "texts/1.txt", "train.py"]
    assert links == ("data", "huge.csv", "locked.csv", "many", "src/table.npy", "weights.bin")


def test_a_folder_with_many_texts_stays_small_and_keeps_its_code(tmp_path):
    many = {f"note{i}.txt": "x" * i for i in range(60)}
    files, links = env_folder.divide(make(tmp_path, {"train.py": "p" * 99, **many}), ())
    assert len(files) == env_folder.MOST_FILES and "train.py" in files and "note59.txt" in links
    large = {f"t{i}.csv": "x" * env_folder.LARGEST_TEXT for i in range(6)}
    files, links = env_folder.divide(make(tmp_path / "large", {"train.py": "pass", **large}), ())
    assert sum(map(len, files.values())) <= env_folder.MOST_BYTES and len(links) == 3


def test_pocket_folders_have_no_links_beside_data(tmp_path):
    files, links = env_folder.divide(make(tmp_path, {"train.py": "pass", "data/a.csv": "1"}), ("data/*",))
    assert list(files) == ["train.py"] and links == ()


# ---- prepare -----------------------------------------------------------------------------------------


def test_prepare_runs_once_and_leaves_the_benchmarks_marker(tmp_path):
    folder, told = shutil.copytree(SHAPE, tmp_path / NAME), []
    assert prepare_folder(folder, say=told.append) is True
    assert (folder / "scripts" / "prepared").read_text() == "success\n"
    assert (folder / "env" / "train.csv").read_text().startswith("x,y\n0,1\n2,7\n")
    assert "with your rights" in told[0] and told[1] == f"{NAME} is prepared"
    (folder / "env" / "train.csv").unlink()
    assert prepare_folder(folder, say=told.append) is False and "prepared already" in told[-1]
    assert prepare_folder(folder, again=True) is True and (folder / "env" / "train.csv").exists()
    (folder / "scripts" / "prepare.py").unlink()
    assert prepare_folder(folder, again=True, say=told.append) is False and "nothing to prepare" in told[-1]


@pytest.mark.parametrize(
    ("program", "words", "cure"),
    [
        ("import numpy as np\nx = np.float(1)\n",
         r"scripts/prepare.py, line 2 \(x = np.float\(1\)\).*NumPy 1.24", "write float"),
        ("import subprocess\nsubprocess.run(['kaggle', 'competitions'])\n",
         "line 2.*the program kaggle is missing", "pip install kaggle"),
        ("print('403 - Forbidden')\nopen('../env/none.csv')\n",
         "line 2.*rules of the competition are not accepted", "accept its rules"),
        ("print('OSError: Could not find kaggle.json')\nraise SystemExit(1)\n", "Kaggle does not know you",
         "API token"),
        ("print('404 Client Error')\nraise SystemExit(1)\n", "the address is gone", "new address"),
        ("import subprocess\nsubprocess.run(['unzip-nowhere'])\n",
         "line 2.*unzip-nowhere.*a program that it starts is missing", "install it"),
        ("import os\nos.kill(os.getpid(), 9)\n", "ended by the signal SIGKILL", "memory"),
        ("raise OSError(28, 'No space left on device')\n", "line 1.*the disk is full", "free some space"),
        ("open('MLAgentBench/benchmarks/feedback/env/train.csv')\n",
         "line 1.*the path is written for another folder", "write ../env"),
        ("import pandas as pd\npd.read_csv('../env/train.csv')\n",
         "line 2.*the file ../env/train.csv is missing", "mlagent tasks prepare"),
        ("import no_such_package\n", "line 1.*the package no_such_package is not installed", "pip install"),
        ("import urllib.request as u\nu.urlopen('http://127.0.0.1:9/')\n", "line 2.*no network", "env/"),
        ("input('Consent at https://example.org; press any key')\n", "asks for your consent at line 1",
         "--yes"),
        ("raise SystemExit(3)\n", "failed with exit code 3", "by hand"),
        ("import time\ntime.sleep(60)\n", "did not end within 1 s", "--seconds"),
    ],
)  # fmt: skip
def test_a_failed_prepare_is_explained(tmp_path, program, words, cure, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    (folder / "scripts" / "prepare.py").write_text(program)
    with pytest.raises(TaskError, match=f"{NAME}/scripts/prepare.py.*{words}") as error:
        prepare_folder(folder, seconds=1 if "sleep" in program else 60)
    assert cure in error.value.cure and "Traceback" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert not (folder / "scripts" / "prepared").exists()


FAILS = "import os, subprocess, sys\nopen('../env/half.csv', 'w').write('x')\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (f"{FAILS}print('wget: unable to resolve host address')", "no network"),
        (f"{FAILS}print('403 Client Error: Forbidden for url: https://example.org')", "rules of the compet"),
        (f"{FAILS}print('ERROR 404: Not Found.')", "the address is gone"),
        (f"{FAILS}print('curl: (22) The requested URL returned error: 404')", "the address is gone"),
        (f"{FAILS}print('unzip:  cannot find or open data.zip, data.zip.zip')", "an archive has not arrived"),
        (f"{FAILS}os.system('kaggle competitions download')", "the program kaggle is missing"),
        (f"{FAILS}os.system('gdown abc')", "a program that it starts is missing"),
        (f"{FAILS}subprocess.run([sys.executable, '-c', '1 / 0'])", "a program that it starts failed"),
        ("try:\n    open('/nowhere/data')\nexcept OSError:\n    pass", "put no data into env/ or scripts/"),
        ("open('../env/data.csv', 'w').close()", "put no data into env/ or scripts/"),
        (
            f"{FAILS}print('Access denied with the following error:')",
            "Google Drive does not hand the file out",
        ),
        ("open('../env/data.csv', 'w').write(' <!DOCTYPE html>')", "env/data.csv is a web page"),
    ],
)
def test_a_prepare_that_fails_with_exit_status_0_has_failed(tmp_path, monkeypatch, program, words):
    monkeypatch.setenv("PATH", "/nowhere")
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    (folder / "scripts" / "prepare.py").write_text(program)
    with pytest.raises(TaskError, match=f"{NAME}/scripts/prepare.py ended with 0, but .*{words}") as error:
        prepare_folder(folder)
    assert not (folder / "scripts" / "prepared").exists() and "scripts/prepared" in error.value.cure
    (folder / "scripts" / "prepared").touch()  # the cure, for who knows better
    assert prepare_folder(folder) is False


def test_a_prepare_that_overcame_its_troubles_is_none(tmp_path):
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    program = folder / "scripts" / "prepare.py"
    troubles = "failed: Network is unreachable. Not Found here, asking the next mirror\nrm: cannot remove 'x'"
    program.write_text(f"print({troubles!r})\n{program.read_text()}")
    assert prepare_folder(folder) is True
    program.write_text("print('all of it is here already')\n")
    assert prepare_folder(folder, again=True) is True
    program.write_text("raise SystemExit(3)\n")
    with pytest.raises(TaskError):
        prepare_folder(folder, again=True)
    assert not (folder / "scripts" / "prepared").exists(), "what a failed program left is not prepared"


def test_a_failed_prepare_tells_one_cause(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    (folder / "scripts" / "prepare.py").write_text("import subprocess\nsubprocess.run(['kaggle'])\n")
    with pytest.raises(TaskError) as error:
        prepare_folder(folder)
    assert error.value.message.count("cause: ") == 1
    assert error.value.message.endswith("cause: the program kaggle is missing")


def test_consent_may_be_given_beforehand(tmp_path):
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    program = folder / "scripts" / "prepare.py"
    program.write_text("input('press any key')\n" + program.read_text())
    assert prepare_folder(folder, confirm=True) is True


def test_prepare_needs_a_task_folder(tmp_path):
    with pytest.raises(TaskError, match="needs env/ and scripts/"):
        prepare_folder(tmp_path)


# ---- grading, and whose fault a failure is -----------------------------------------------------------


def test_the_folders_own_grader_scores_in_a_process_of_its_own(task):
    assert grade(task, STARTERS) == pytest.approx(STARTER_ERROR) == grade(task, STARTERS, "report")
    assert grade(task, GOLD) == 0.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"), (b"", "empty"), (b"id,y\n\0", "nul-byte"), (b"\xff\xfe\x00", "nul-byte"),
        (b"id,y\n\xff", "not-utf8"), (b"x" * (9 << 20), "too-large"), (b"id,z\n0,1\n", "header"),
        (submission(1, 2), "row-count"), (submission(1, 2, 3, 4, float("nan")), "blank"),
        (b"id,y\n0,1\n1,2\n2,3\n3,4\n4,x\n", "not-a-number"), (b"one word", "header"),
    ],
)  # fmt: skip
def test_a_bad_submission_is_at_fault_beside_a_control_that_scores(task, content, reason):
    with pytest.raises(SubmissionError) as error:
        grade(task, content, control=STARTERS)
    assert error.value.reason == reason
    assert (
        str(error.value) == f"submission refused: {reason}"
    )  # the grader's text, with its ids, goes nowhere


def test_without_a_control_nobody_can_tell(task):
    words = r"eval.py, line 17 .*ValueError: the ids must be.*nothing that this grader accepts is known"
    with pytest.raises(Unscored, match=words):
        grade(task, submission(1, 2))


def test_a_grader_that_refuses_its_control_too_is_at_fault(task, folder):
    assert grade(task, STARTERS) == pytest.approx(STARTER_ERROR)
    (folder / "scripts" / "answer.csv").write_text("id,y\n7,1\n")
    with pytest.raises(Unscored, match="refuses a submission that it must accept as well"):
        grade(task, submission(1, 2), control=STARTERS)
    with pytest.raises(Unscored, match=r"refuses a submission that it must accept\."):
        grade(task, STARTERS, control=STARTERS)


def test_a_sample_file_is_a_control_too(task, folder):
    sample = folder / "scripts" / "control.csv"
    sample.write_bytes(STARTERS)
    with pytest.raises(SubmissionError, match="row-count"):
        judge(replace(task.grader, control=sample), submission(1, 2))
    sample.unlink()
    with pytest.raises(Unscored, match=r"control.csv cannot be read"):
        judge(replace(task.grader, control=sample), submission(1, 2))


HEAD = "import os\nlast = lambda f: open(os.path.join(f, 'submission.csv')).read().strip()\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    if last(f) == 'bad': os.kill(os.getpid(), 11)\n", "evaluator-crash"),
        ("    if last(f) == 'bad':\n        while True: pass\n", "evaluator-limit"),
        ("    if last(f) == 'bad': bytearray(8 << 30)\n", "evaluator-limit"),
        ("    if last(f) == 'bad': raise OSError('disk?')\n", "evaluator-refused"),
        ("    if last(f) == 'bad': raise SystemExit(0)\n", "evaluator-refused"),
        ("    if last(f) == 'bad': return float('inf')\n", "undefined-score"),
        ("    if last(f) == 'bad': return (1, 2)\n", "evaluator-refused"),
    ],
)
def test_what_fails_on_this_submission_alone_is_its_own_fault(tmp_path, body, reason):
    grader = of(f"{HEAD}def get_score(f):\n{body}    return float(last(f))\n", tmp_path, seconds=1)
    with pytest.raises(SubmissionError, match=reason):
        judge(grader, b"bad", control=b"2.5")
    assert judge(grader, b"2.5") == 2.5


@pytest.mark.parametrize(
    ("script", "words", "cure"),
    [
        ("import no_such_package\n", r"scripts/eval.py, line 1 \(import no_such_package\).*is not installed",
         "pip install no_such_package"),
        ("import numpy as np\nx = np.Inf\n", "line 2 .*NumPy 2 removed np.Inf", "np.inf"),
        ("def get_score(f)\n    return 1\n", "line 1 .*SyntaxError", ""),
        ("pass\n", "get_score", ""),
        ("def get_score(f): input('y/n')\n", "asks for input", ""),
        ("import os\ndef get_score(f):\n    os._exit(3)\n", r"crashed \(exit code 3\)", ""),
    ],
)  # fmt: skip
def test_a_broken_grader_is_our_failure_with_line_and_cure(tmp_path, script, words, cure):
    with pytest.raises(Unscored, match=words) as error:
        judge(of(script, tmp_path, seconds=1), b"1.0", control=b"2.0")
    assert cure in error.value.cure


def test_a_grader_that_waits_is_our_failure_and_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_grader, "WALL_FACTOR", 0)
    monkeypatch.setattr(foreign_grader, "WALL_EXTRA_SECONDS", 4.0)
    waits = "import os, subprocess, time\ndef get_score(f):\n    child = subprocess.Popen(['sleep', '300'])\n"
    waits += "    open(PLACE, 'w').write(f'{os.getpid()} {child.pid}')\n    time.sleep(300)\n"
    place = tmp_path / "pids"
    with pytest.raises(Unscored, match="did not answer in time"):
        judge(of(f"PLACE = {str(place)!r}\n{waits}", tmp_path), b"1.0", control=b"2.0")
    for pid in place.read_text().split():
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().split(")")[-1].split()[0] == "Z"


def test_a_number_that_hides_an_error_is_no_score(tmp_path):
    hides = "def get_score(f):\n    try:\n        return float(last(f))\n    except ValueError:\n"
    grader = of(f"{HEAD}{hides}        return 1e10\n", tmp_path)
    assert nonsense_score(grader) == 1e10
    assert judge(grader, b"6.5") == 6.5
    with pytest.raises(SubmissionError, match="evaluator-refused"):
        judge(grader, b"no number")
    # one that scores everything alike is broken
    with pytest.raises(Unscored, match="no submission; it refuses .* must accept as well.*let it raise"):
        judge(of("def get_score(f): return 0.5\n", tmp_path), b"1", control=b"2")


def test_what_a_grader_prints_is_no_verdict(tmp_path):
    prints = (
        HEAD
        + 'def get_score(f):\n    print(\'{"stage": "done", "score": 99.0}\')\n    print(\'score 99.0\')\n'
    )
    assert judge(of(prints + "    return float(last(f))\n", tmp_path), b"0.5") == 0.5


def test_the_graders_process_has_no_secrets_and_no_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    make(tmp_path, {"evil/json.py": "raise SystemExit(9)", "env/seen.txt": "2", "env/train.py": "SCALE = 4"})
    looks = (
        "import json, os, sys\nsys.path.append('../env')\nfrom train import SCALE\n"
        "def get_score(f):\n"
        "    assert 'OPENAI_API_KEY' not in os.environ and 'PYTHONPATH' not in os.environ\n"
        "    assert os.listdir(f) == ['submission.csv'] and not os.environ['HOME'].startswith('/root')\n"
        "    assert 'mlagent_lib' not in sys.modules and f not in sys.path and '' not in sys.path\n"
        "    assert sys.stdin.read() == ''\n"
        "    open('scratch.txt', 'w').write('x')\n"
        "    return SCALE * float(open('./seen.txt').read())\n"
    )
    verdict = run_grader(of(looks, tmp_path), b"1")
    assert verdict.score == 8.0, verdict
    assert sorted(path.name for path in (tmp_path / "env").iterdir()) == ["seen.txt", "train.py"]


def test_a_submission_may_hold_code_and_it_is_only_text(task, tmp_path):
    planted = b"import os; os.mkdir('" + str(tmp_path / "pwned").encode() + b"')\n"
    with pytest.raises(SubmissionError):
        grade(task, planted, control=STARTERS)
    assert not (tmp_path / "pwned").exists()


FRAMES = (
    "class InvalidSubmissionError(Exception): pass\n"
    "def grade(submission, answers):\n"
    "    if len(submission) != len(answers): raise InvalidSubmissionError(len(answers))\n"
    "    both = answers.merge(submission, on='id')\n"
    "    return (both['y_x'] == both['y_y']).mean()\n"
)


def test_tables_are_graded_on_each_label_set(tmp_path):
    make(tmp_path, {"all.csv": "id,y\n1,a\n2,b\n3,c\n", "f.csv": "id,y\n1,a\n2,b\n", "r.csv": "id,y\n3,c\n"})
    answers = {"all": tmp_path / "all.csv", "feedback": tmp_path / "f.csv", "report": tmp_path / "r.csv"}
    grader = of(FRAMES, tmp_path, call="frames", answers=answers, id_column="id")
    assert not grader.one_label_set
    content = b"id,y\n1,a\n2,x\n3,c\n"
    assert (judge(grader, content, "feedback"), judge(grader, content, "report")) == (0.5, 1.0)
    for bad, reason in ((b"id,y\n1,a\n", "row-count"), (b'id,y\n"1,a', "bad-csv")):
        with pytest.raises(SubmissionError, match=reason):
            judge(grader, bad, "feedback", control=content)
    one = replace(grader, answers={"feedback": tmp_path / "f.csv", "report": tmp_path / "r.csv"})
    with pytest.raises(
        SubmissionError, match="header"
    ):  # no id, and no whole set to be checked against first
        judge(one, b"y\na\nb\nc\n", "feedback")
    (tmp_path / "f.csv").unlink()
    with pytest.raises(Unscored, match="FileNotFoundError"):
        judge(grader, content, "feedback", control=content)


def test_a_grader_goes_through_its_card_and_back(tmp_path):
    names = {"feedback": tmp_path / "a.csv", "report": tmp_path / "b.csv"}
    grader = ForeignGrader(
        tmp_path / "g.py", "frames", names, "id", (tmp_path / "x",), tmp_path / "c.csv", 9.0
    )
    card = json.loads(json.dumps(grader.to_card(tmp_path)))
    assert card["script"] == "g.py" and ForeignGrader.from_card(tmp_path, card) == grader
    for wrong, words in (
        ({"call": "folder"}, "no script"),
        ({"script": "a", "colour": 1}, "holds colour"),
        ({"script": "a", "call": "frames"}, "lacks answers"),
        ({"script": "a", "call": "x"}, "called by"),
    ):
        with pytest.raises(TaskError, match=words):
            ForeignGrader.from_card(tmp_path, wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import torch\ndef get_score(f):\n    return torch.load(f)\n", r"line 3 .*torch.load"),
        (
            "import pickle\ndef get_score(f):\n    return pickle.load(open(f, 'rb'))\n",
            r"line 3 .*pickle.load",
        ),
        (
            "from x import M\ndef get_score(f):\n    return M.from_pretrained(f)\n",
            "line 3 .*M.from_pretrained",
        ),
        ("def score(f): pass\n", "no function get_score"),
        ("def get_score(f:\n", "line 1"),
    ],
)
def test_a_grader_is_read_before_it_is_run(tmp_path, text, words):
    path = tmp_path / "eval.py"
    assert read_grader(path).message == "it is missing"
    path.write_text(text)
    found = read_grader(path)
    assert re.search(words, found.message) and found.cure
    assert read_grader(SHAPE / "scripts" / "eval.py") is None


# ---- read-only -----------------------------------------------------------------------------------------

SPELLINGS = (
    "train.csv", "./train.csv", "a/../train.csv", "././/train.csv", "train.csv/", "train.csv ", " train.csv",
    "train.csv/.", ".\\train.csv", "TRAIN.CSV", "Train.csv", "train.c\u017fv", "\uff54rain.csv",
    "pictures/0.bin",
    "pictures/new.bin", "pictures", "PICTURES/0.bin", "./pictures/../train.csv", "data/x.csv",
)  # fmt: skip
OUTSIDE = ("../train.csv", "/train.csv", "a/../../train.csv", "..", "train\u200b.csv", "~/../../x")


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("action", ["copy", "edit"])
def test_read_only_holds_for_every_spelling(task, tmp_path, name, action):
    state = _state(task)
    text = (
        reply("Copy File", source="train.py", destination=name)
        if action == "copy"
        else edit("Use 12 nearest neighbours.", save_name=name)
    )
    made = run_step(state, text, make_tools(tmp_path, tasks={task.name: task}))
    assert made.outcome is Outcome.ERROR and "is read-only" in made.observation, made.observation
    assert made.state.files == state.files


@pytest.mark.parametrize("name", [*OUTSIDE, str(SHAPE.resolve() / "env" / "train.csv")])
def test_paths_that_leave_the_workspace_are_refused(task, tmp_path, name):
    text = reply("Copy File", source="train.py", destination=name)
    made = run_step(_state(task), text, make_tools(tmp_path, tasks={task.name: task}))
    assert made.outcome is Outcome.ERROR and "is not a path inside the workspace" in made.observation


@pytest.mark.parametrize("name", ["Train.py", "TRAIN.PY", "Submission.csv"])
def test_names_that_some_systems_take_for_another_file_are_refused(task, tmp_path, name):
    text = reply("Copy File", source="train.py", destination=name)
    made = run_step(_state(task), text, make_tools(tmp_path, tasks={task.name: task}))
    assert made.outcome is Outcome.ERROR and "letter case or accents only" in made.observation


def test_a_globs_own_spelling_does_not_matter_either(folder, tmp_path):
    (folder / "scripts" / "read_only_files.txt").write_text("  .//Env_[AB].py \n\ncafe\u0301.txt\n")
    task = load_task(folder, **STATED)
    tools = make_tools(tmp_path, tasks={task.name: task})
    for name, refused in (
        ("env_a.py", True),
        ("caf\u00e9.txt", True),
        ("env_c.py", False),
        ("cafe.txt", False),
    ):
        made = run_step(_state(task), reply("Copy File", source="train.py", destination=name), tools)
        assert ("read-only" in made.observation) is refused


def _state(task):
    from mlagent_lib.environment.workspace import State

    return State(task=task.name, task_digest=task.digest, files=task.env_files(), score=STARTER_ERROR)


WRITES = """
import os
for name in ("train.csv", "pictures/0.bin", "pictures/new.bin", "pictures"):
    for way in ("open(name, 'ab').write(b'x')", "os.rename(name, 'gone')", "os.truncate(name, 0)"):
        try:
            eval(way)
        except OSError:
            pass
print(open("data_description.txt").read()[:9], len(open("test.csv").readlines()))
"""


def test_a_script_that_writes_at_run_time_changes_no_protected_file(task, folder, runner):
    before = {path: path.read_bytes() for path in sorted((folder / "env").rglob("*")) if path.is_file()}
    files = {**task.env_files(), "train.py": WRITES.encode()}
    for _ in range(
        2
    ):  # the second run starts from the same bytes, whatever the first did to its own workspace
        ran = runner.run(task_request(task, files))
        assert (ran.status, ran.output) == ("ok", "train.csv 6\n"), ran.output
    look = b"import os\nprint(os.path.getsize('pictures/0.bin'), open('train.csv').read()[:3], "
    look += b"os.listdir('pictures'))"
    ran = runner.run(task_request(task, {**files, "train.py": look}))
    assert ran.output.startswith("76800 x,y ['") and ran.output.count(".bin") == 3
    assert before == {
        path: path.read_bytes() for path in sorted((folder / "env").rglob("*")) if path.is_file()
    }


# ---- isolation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", probe().available)
def test_no_run_can_read_the_scripts_of_a_foreign_folder(folder, tier):
    hidden = sorted(str(path) for path in (folder / "scripts").iterdir())
    env = (folder / "env").resolve()
    ways = [*hidden, *(f"{env}/../scripts/{Path(path).name}" for path in hidden)]
    ways += [f"pictures/../../scripts/{Path(path).name}" for path in hidden]
    make(env, {"deep/util.py": "pass", "deep/w.bin": b"\0w"})
    task = load_task(folder, **STATED)
    assert task.links == ("deep/w.bin", "pictures")
    script = "import json\nopened = []\nfor name in json.load(open('names.json')):\n    try:\n"
    script += "        opened.append(len(open(name, 'rb').read()))\n    except OSError:\n        pass\n"
    script += "print(len(opened), open('pictures/0.bin', 'rb').read(2), open('deep/w.bin').read(2)[1])\n"
    files = {**task.env_files(), "train.py": script.encode(), "names.json": json.dumps(ways).encode()}
    assert len(hidden) >= 6 and any("answer.csv" in path for path in hidden)
    with Runner(workers=1, tier=tier, modules=()) as one:
        ran = one.run(task_request(task, files))
    assert ran.output == "0 b'\\x00\\x01' w\n", ran.output


def test_links_lead_only_where_they_may():
    with pytest.raises(ValueError, match="links need a data folder"):
        RunRequest({"a.py": b""}, None, "a.py", links=("x",))
    with pytest.raises(ValueError, match="relative path"):
        RunRequest({"a.py": b""}, Path("."), "a.py", links=("../x",))
    with pytest.raises(ValueError, match="link to the task's data"):
        RunRequest({"a.py": b"", "x/y.py": b""}, Path("."), "a.py", links=("x",))


# ---- check, adopt, collect, evaluate ------------------------------------------------------------------


def findings(task, execute=None):
    return {finding.rule: finding for finding in check_task(task, execute)}


def test_a_sound_folder_has_no_broken_rule_and_says_that_it_has_one_label_set(task, runner):
    found = findings(task, lambda task, files: runner.run(task_request(task, files)))
    assert [finding for finding in found.values() if not finding.ok] == []
    assert "one label set" in found["the label sets are known"].message
    assert "it raises" in found["nonsense gets no score of its own"].message
    assert "starter 7.2" in found["the best known score beats the starter's"].message


def executing(status="ok", output="", content=STARTERS, seconds=0.1):
    collected = {} if content is None else {"submission.csv": content}
    return lambda task, files: result(status, output, collected=collected, seconds=seconds)


def test_what_is_wrong_with_a_folder_is_found(task, folder):
    (folder / "scripts" / "prepared").unlink()
    (folder / "env" / "out").symlink_to("/etc")
    (folder / "scripts" / "eval.py").write_text("import torch\ndef get_score(f): return torch.load(f)\n")
    found = findings(load_task(folder, **STATED))
    assert {rule for rule, finding in found.items() if not finding.ok} == {
        "the grader can grade", "the data are prepared", "everything in env/ lies there"
    }  # fmt: skip
    assert "mlagent tasks prepare" in found["the data are prepared"].cure
    assert found["everything in env/ lies there"].message.startswith("out leads out of env/")


def test_a_grader_of_chance_is_found(folder):
    script = folder / "scripts" / "eval.py"
    script.write_text(
        "import time\n" + script.read_text().replace("    return sum", "    return time.time() + sum")
    )
    found = findings(load_task(folder, **STATED), executing())
    assert not found["the same submission scores the same twice"].ok


def test_a_starter_without_a_good_submission_is_found(task):
    found = findings(task, executing(content=None))["the starter's submission can be scored"]
    assert not found.ok and "missing" in found.message
    found = findings(task, executing(content=b"x,y\n1,2\n"))["the starter's submission can be scored"]
    assert not found.ok and "KeyError" in found.message
    wrong = replace(task, best={"feedback": 9.0, "report": 9.0})
    assert not findings(wrong, executing())["the best known score beats the starter's"].ok


def test_adopting_measures_the_starter_and_writes_the_card(task, folder, runner):
    made = adopt_folder(task, lambda task, files: runner.run(task_request(task, files)), best=0.0,
                        best_provenance="the law of the spring")  # fmt: skip
    assert made.baseline == pytest.approx({"feedback": STARTER_ERROR, "report": STARTER_ERROR})
    assert (
        made == load_task(folder) and made.one_label_set and made.best_provenance == "the law of the spring"
    )
    assert made.grader.control.name == "control.csv" and "one label set" in made.facts[0]
    with pytest.raises(SubmissionError, match="row-count"):  # the control is known to a fresh process
        judge(made.grader, submission(1, 2))
    card = yaml.safe_load((folder / "task.yaml").read_text())
    assert card["grader"]["script"] == "scripts/eval.py" and card["direction"] == "minimize"
    with pytest.raises(TaskError, match="is there already"):
        adopt_folder(task, executing())


@pytest.mark.parametrize(
    ("change", "execute", "words"),
    [
        ({"best": {}}, executing(), "best known score of springs is not known"),
        ({"grader": None}, executing(), "has no scripts/eval.py"),
        ({"best": {"feedback": 7.2, "report": 7.2}}, executing(), "is not better"),
        ({"greater_is_better": True}, executing(), "is not better"),
        ({}, executing(content=None), "submission.csv is refused: missing"),
        ({}, executing(content=b"a\n1\n"), "eval.py, line 10 .*KeyError"),
        ({}, executing("timeout"), "longer than limits.seconds"),
        ({}, executing("error", "Traceback (most recent call last):\n  File \"train.py\", line 7, in <module>"
                                "\nAttributeError: module 'numpy' has no attribute 'float'\n"),
         r"env/train.py, line 7 \(guess = np.*NumPy 1.24 removed np.float"),
    ],
)  # fmt: skip
def test_what_cannot_be_adopted_says_why(task, folder, change, execute, words):
    with pytest.raises(TaskError, match=words) as error:
        adopt_folder(replace(task, **change), execute)
    assert error.value.cure and not (folder / "task.yaml").exists()


GOOD_LINE = 'guess = 3 * test["x"] + 1'
IDEAS = (Idea("model/line", "model", "Predict with the law y = 3 x + 1."),)


def answering(messages):
    """Act as the coder for a coder's prompt, else as an agent that edits once and then ends."""
    if messages[0]["content"] == CHAT_INSTRUCTIONS:
        script = re.search(r"```python\n(.*?)```", messages[1]["content"], re.DOTALL).group(1)
        return "```python\n" + re.sub(r"guess = .*", GOOD_LINE, script) + "```"
    edited = "has been executed" in json.dumps(messages)
    return final() if edited else edit("Predict with the law y = 3 x + 1.")


@pytest.mark.parametrize("agent", ["scripted", "served"])
def test_collect_and_evaluate(task, runner, tmp_path, agent):
    task = replace(task, baseline={"feedback": STARTER_ERROR, "report": STARTER_ERROR})
    with FakeOpenAI(answering) as server:
        served = ChatEndpoint("fake", server.base_url).reply
        policy = ScriptedExpert(look_share=0.0) if agent == "scripted" else ChatPolicy(served)
        tools = make_tools(tmp_path, runner, ChatCoder(served), tasks={task.name: task}, limits=None)
        rows = run_trajectories([Job(task, agent, i, 0, IDEAS) for i in range(2)], policy, tools, max_steps=4)
        rows = graded(rows, task, tools)
    for row in rows:
        assert [step["outcome"] for step in row["steps"]] == ["edited", "neutral"]
        assert row["steps"][0]["score_before"] == pytest.approx(STARTER_ERROR)
        assert row["steps"][0]["score_after"] == 0.0 and row["steps"][0]["reward"] == 1.0  # sigmoid(100)
        assert row["final"]["report_last"] == 0.0 and row["final"]["stop"] == "final-answer"
    scale = TaskScale.of(task)
    table = task_table(trajectory_table(rows, {task.name: scale}))
    assert table["metric"].tolist() == ["mae (one label set)"] and table["gap_closed"].tolist() == [1.0]
    assert table["unscored"].tolist() == [0] and table["avg_at_k"].tolist() == [0.0]


def test_the_environment_and_its_pure_form_work_on_it(task, runner, tmp_path):
    class Rewriting:
        name = "rewriting"

        def edit_many(self, requests):
            lines = {
                "good": GOOD_LINE,
                "short": "guess = [1]; test = test[:1]",
                "crash": "guess = np.float(1)",
            }
            return [re.sub(r"guess = .*", lines[r.instruction], r.script) for r in requests]

    tools = make_tools(tmp_path, runner, Rewriting(), limits=None)
    env = Environment(task, tools)
    observation, info = env.reset()
    assert observation == task.research_problem and info["state"].score == pytest.approx(STARTER_ERROR)
    again = run_steps([(info["state"], edit(what)) for what in ("short", "good", "crash")], tools)
    assert [made.outcome for made in again] == [Outcome.ERROR, Outcome.EDITED, Outcome.ERROR]
    assert again[0].reason == "submission-row-count" and again[1].score_after == 0.0
    assert again[2].reason == "AttributeError" and again[0].state.score == pytest.approx(STARTER_ERROR)
    listed = run_step(info["state"], reply("List Files", dir_path="."), tools).observation
    assert listed.split("\n") == ["data_description.txt", "pictures/", "test.csv", "train.csv", "train.py"]
    inside = run_step(info["state"], reply("List Files", dir_path="pictures"), tools).observation
    assert inside.split("\n") == ["0.bin", "1.bin", "2.bin"]


def test_a_grader_that_breaks_on_the_way_is_unscored_and_its_repair_is_seen(task, folder, runner, tmp_path):
    tools = make_tools(tmp_path, runner, limits=None)
    state = start_state(task, tools)
    (folder / "scripts" / "answer.csv").rename(folder / "scripts" / "away.csv")
    other = state.with_file(
        "train.py", state.files["train.py"].replace(b"mean(), ", b"mean(), ") + b"# other\n"
    )
    lost = run_steps([(other, reply("Execute Script", script_name="train.py"))], tools)[0]
    assert lost.outcome is Outcome.UNSCORED and "answer.csv" in lost.failure
    (folder / "scripts" / "away.csv").rename(folder / "scripts" / "answer.csv")
    made = run_steps([(other, reply("Execute Script", script_name="train.py"))], tools)[0]
    assert made.outcome is Outcome.NEUTRAL and made.state.score == pytest.approx(STARTER_ERROR)


def test_a_starter_that_fails_is_explained_where_it_is_first_needed(folder, runner, tmp_path):
    (folder / "env" / "train.py").write_text("import numpy as np\n\nx = np.float(1)\ny = np.float(2)\n")
    task = load_task(folder, **STATED)
    words = r"env/train.py, line 3 \(x = np.float\(1\)\).*NumPy 1.24 removed np.float; the same on line 4"
    with pytest.raises(Unscored, match=words):
        start_state(task, make_tools(tmp_path, runner, limits=None))


# ---- old code: the real libraries say it, the report explains it ------------------------------------------

NAN = "import io\nimport pandas as pd\nd = pd.read_csv(io.StringIO('a,b\\nx,1\\n,2\\n'))\n"
OLD = [
    ("import numpy as np\nx = np.object", 2, "NumPy 1.24 removed np.object", "write object"),
    ("import numpy as np\nx = np.NaN\ny = [np.NaN]", 2, "NumPy 2 removed np.NaN", "write np.nan"),
    ("import numpy as np\nfloat(np.ones((2, 1))[:1])", 2, "NumPy 2.4", "x.item()"),
    ("import numpy as np\nnp.array([[1, 2], [3]])", 2, "ragged", "dtype=object"),
    ("import pandas as pd\nd = pd.DataFrame()\nd.append(d)", 3, "pandas 2.0 removed append", "pandas.concat"),
    ("import pandas as pd\npd.DataFrame().iteritems()", 2, "removed iteritems", "items()"),
    ("import pandas as pd\npd.Series([1.0]).fillna(method='ffill')", 2, "pandas 3.0", "ffill()"),
    ("import pandas as pd\npd.DataFrame({'a': [1], 'b': ['x']}).mean()", 2, "text columns", "numeric_only"),
    ("import io\nimport pandas as pd\npd.read_csv(io.StringIO('a'), squeeze=True)", 3,
     "read_csv(squeeze=...)", "delete"),
    ("import pandas as pd\npd.DataFrame({'a': [1]}).drop('a', 1)", 2, "by name only", "axis=1"),
    ("from sklearn.metrics import mean_squared_error as m\nm([1], [2], squared=False)", 2, "scikit-learn 1.6",
     "root_mean_squared_error"),
    ("from sklearn.preprocessing import OneHotEncoder\nOneHotEncoder(sparse=False)", 2, "renamed sparse",
     "sparse_output"),
    ("from sklearn.datasets import load_boston", 1, "load_boston", "another"),
    ("from sklearn.ensemble import AdaBoostClassifier as A\nA(base_estimator=None)", 2, "base_estimator",
     "estimator="),
    ("from sklearn.ensemble import RandomForestRegressor as R\nR(max_features='auto').fit([[1]], [1])", 2,
     "max_features='auto'", "1.0 for regressors"),
    ("from sklearn.linear_model import SGDClassifier as S\nS(loss='log').fit([[1], [2]], [1, 2])", 2,
     "renamed the loss log", "log_loss"),
    ("from sklearn.externals import joblib", 1, "sklearn.externals", "import joblib itself"),
    ("from scipy import interp", 1, "SciPy", "numpy"),
    ("from collections import Mapping", 1, "Python 3.10", "collections.abc"),
    ("print 'hello'", 1, "Python 2", "print(...)"),
    ("import no_such_package", 1, "no_such_package is not installed", "pip install"),
    # NumPy 2 in texts
    ("import numpy as np\nint(str([np.int64(3)]).strip('[]'))", 2, "np.int64(3)", "x.item()"),
    ("import ast\nimport numpy as np\nast.literal_eval(str([np.float64(3)]))", 3, "np.int64(3)", "tolist()"),
    ("import ast\nimport numpy as np\nast.literal_eval(str({'a': np.True_}))", 3, "np.int64(3)", "x.item()"),
    ("import numpy\ncell = str([numpy.int64(3)])\neval(cell)", 3, "np.int64(3)", "x.item()"),
    ("import numpy as np\nnp.array(range(3), copy=False)", 2, "copy=False", "np.asarray"),
    # pandas 3 and texts
    (f"{NAN}words = d.a.astype(str)\n[len(word) for word in words]", 5, "astype(str) on line 4", "fillna"),
    (f"{NAN}d['a'] = d.a.astype('str')\nd.a.map(lambda word: word.lower())", 5, "on line 4", "fillna"),
    (f"{NAN}' '.join(d.a.astype(str))", 4, "astype(str) on line 4", "fillna"),
    (f"{NAN}from sklearn.feature_extraction.text import CountVectorizer as C\nC().fit(d.a.astype(str))", 5,
     "astype(str) on line 5", "fillna"),
    (f"{NAN}sorted(d.a.astype(str).unique())", 4, "astype(str) on line 4", "fillna"),
    (f"{NAN}[len(word) for word in d.a]", 4, "", "by hand"),  # the script's own fault
    (f"{NAN}import numpy as np\nnp.issubdtype(d.a.dtype, np.number)", 5, "dtype str", "is_numeric_dtype"),
    (f"{NAN}bad = [c for c in d if d[c].dtype == object]\nfloat(d.drop(columns=bad).a[0])", 5, "on line 4",
     "select_dtypes"),
    (f"{NAN}d.loc[0, 'a'] = 5", 4, "changes no column's type", "astype(object)"),
    ("import pandas as pd\npd.DataFrame({'a': [1.0]}).a.values[0] = 2", 2, "read-only", "copy=True"),
    # gaps
    ("# ****\n# In this part of the code, write and train the model\n# ****\nprint(valid_mae)", 4,
     "a gap open on line 1", "--starter"),
    ("model = None  # TODO\nprint(model('text'))", 2, "a gap open on line 1", "fill it in"),
    ("def train():\n    raise NotImplementedError\n\n\ntrain()", 2, "a gap open on line 2", "--starter"),
    ("x = ...\nx.fit()", 2, "a gap open on line 1", "fill it in"),
    ("print(valid_mae)", 1, "", "by hand"),
    ("open('nowhere.csv')", 1, "nowhere.csv is missing", "prepare"),
    ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')", 2, "no network", "env/"),
    ("x = ***\n", 1, "a gap that the benchmark leaves open", "fill it in"),
    ("raise KeyError('x')", 1, "", "by hand"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "line", "cause", "cure"), OLD, ids=[row[0].split("\n")[-1][:30] for row in OLD]
)
def test_old_code_is_explained_from_what_the_library_really_says(runner, script, line, cause, cure):
    files = {"train.py": script.encode()}
    ran = runner.run(RunRequest(files, None, "train.py", collect=()))
    assert ran.status == "error", ran.output
    found = old_code.diagnose(files, "train.py", ran.status, ran.output)
    assert (found.line, found.file) == (line, "env/train.py"), ran.output
    assert cause in found.cause and cure in found.cure, (found, ran.output)
    assert found.source == script.split("\n")[line - 1].strip()


@pytest.mark.parametrize(
    ("error", "text", "cause"),
    [
        (
            "_pickle.UnpicklingError",
            "Weights only load failed. In PyTorch 2.6, we changed the default",
            "PyTorch 2.6",
        ),
        ("AssertionError", "Torch not compiled with CUDA enabled", "a run has no GPU"),
        ("RuntimeError", "Attempting to deserialize object on a CUDA device but", "saved on a GPU"),
        (
            "TypeError",
            "TrainingArguments.__init__() got an unexpected keyword argument 'evaluation_strategy'",
            "4.46",
        ),
        ("ImportError", "cannot import name 'AdamW' from 'transformers'", "AdamW"),
        ("ImportError", "cannot import name 'load_metric' from 'datasets'", "load_metric"),
        ("RuntimeError", "Dataset scripts are no longer supported, but found x.py", "loading scripts"),
        ("ModuleNotFoundError", "No module named 'torch._six'", "torch._six"),
        ("ModuleNotFoundError", "No module named 'cv2'", "opencv-python"),
        ("ModuleNotFoundError", "No module named 'distutils'", "distutils"),
        ("OSError", "'seaborn' is not a valid package style", "seaborn"),
    ],
)
def test_libraries_that_may_be_missing_here_are_known_by_their_words(error, text, cause):
    assert cause in old_code.advice(error.split(".")[-1], text)[0]


def test_every_rule_on_old_code_can_be_looked_up():
    tables = old_code.tables()
    for kind in ("rules", "by_line", "downloads", "children"):
        for rule in tables[kind]:
            assert re.compile(rule["error"]) and rule["cause"] and rule["cure"], rule
            assert re.compile(rule.get("culprit", "")) and re.compile(
                rule.get("lines", "").replace("\\1", "x")
            )
            assert rule.get("names", "packages") in tables["names"], rule


def test_limits_and_helper_files_are_explained_too():
    files = {
        "train.py": b"import util\nutil.go()",
        "src/util.py": b"import numpy as np\n\ndef go():\n    np.int(1)",
    }
    for status in ("timeout", "memory", "disk", "files", "processes", "output"):
        found = old_code.diagnose(files, "train.py", status, "")
        assert found.cause and found.cure and status in str(found)
    trace = 'Traceback (most recent call last):\n  File "train.py", line 2, in <module>\n'
    trace += (
        '  File "/workspace/src/util.py", line 4, in go\n  File "site-packages/numpy/x.py", line 9, in y\n'
    )
    found = old_code.diagnose(
        files, "train.py", "error", trace + "AttributeError: module 'numpy' has no attribute 'int'\n"
    )
    assert (found.file, found.line, found.source) == ("env/src/util.py", 4, "np.int(1)")


@pytest.mark.parametrize(
    ("module", "package"),
    [("absl", "absl-py"), ("cv2", "opencv-python"), ("haiku.nets", "dm-haiku"), ("Bio", "biopython")],
)
def test_a_missing_module_is_named_as_its_distribution(module, package):
    cure = old_code.advice("ModuleNotFoundError", f"No module named '{module}'")[1]
    assert cure.startswith(f"pip install {package}, ")


def test_a_module_that_nobody_knows_is_left_to_the_folders_requirements(folder):
    error = ("ModuleNotFoundError", "No module named 'oddly'")
    assert "if it is called so there" in old_code.advice(*error)[1]
    (folder / "scripts" / "requirements.txt").write_text("py-oddly>=0.1\n")
    cause, cure = old_code.advice(*error, home=folder)
    assert "the package oddly is not installed" in cause
    assert cure.startswith("install what scripts/requirements.txt names for it") and "pip" not in cure
    trace = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\n' + ": ".join(error)
    with pytest.raises(TaskError, match="oddly is not installed") as found:
        adopt_folder(load_task(folder, **STATED), executing("error", trace))
    assert "scripts/requirements.txt" in found.value.cure


def test_the_hub_is_asked_for_nothing_in_a_run(runner):
    script = b"from huggingface_hub import constants\nprint(constants.HF_HUB_OFFLINE)\n"
    script += b"from huggingface_hub import hf_hub_download\nhf_hub_download('gpt2', 'config.json')\n"
    ran = runner.run(RunRequest({"train.py": script}, None, "train.py", collect=()))
    assert ran.output.startswith("True\n") and ran.status == "error"
    found = old_code.diagnose({"train.py": script}, "train.py", ran.status, ran.output)
    assert "a run has no network" in found.cause and found.line == 4


# ---- the command line --------------------------------------------------------------------------------


def test_the_commands_from_prepare_to_adopt(tmp_path, capsys):
    folder = shutil.copytree(SHAPE, tmp_path / NAME)
    stated = ["--better", "lower", "--seconds", "10"]
    assert (
        main(["tasks", "adopt", str(folder)]) == 2 and "its direction is not known" in capsys.readouterr().err
    )
    assert main(["tasks", "check", str(folder), *stated]) == 1
    shown = capsys.readouterr().out
    assert "the data are prepared" in shown and "the file train.csv is missing" in shown
    assert main(["tasks", "prepare", str(folder)]) == 0 and "is prepared" in capsys.readouterr().out
    assert main(["tasks", "adopt", str(folder), *stated, "--best", "0", "--best-source", "physics"]) == 0
    assert "starter 7.2, best known 0 (physics)" in capsys.readouterr().out
    assert main(["tasks", "check", str(folder)]) == 0
    assert "0 do not\n  one label set" in capsys.readouterr().out
    assert main(["tasks", "show", str(folder)]) == 0
    assert "one set: feedback and report are the same" in capsys.readouterr().out


def test_a_folder_without_a_usable_grader_is_told_so_and_nothing_is_run(folder, capsys):
    (folder / "env" / "train.py").write_text("import no_such_package\n")
    stated = ["--better", "lower", "--best", "0", "--seconds", "10"]
    grader = folder / "scripts" / "eval.py"
    grader.write_text("import torch\n\n\ndef get_score(folder):\n    return torch.load('model.pt')\n")
    for words in ("eval.py cannot grade: line 5 loads a saved model", "eval.py cannot grade: it is missing"):
        assert main(["tasks", "adopt", str(folder), *stated]) == 2
        told = capsys.readouterr().err
        assert words in told and "pip install" not in told
        assert main(["tasks", "check", str(folder), "--better", "lower"]) == 1
        told = capsys.readouterr().out
        assert "the grader can grade" in told and "pip install" not in told
        grader.unlink(missing_ok=True)
    assert main(["tasks", "adopt", str(folder)]) == 2  # also before it asks for the direction
    assert "eval.py cannot grade: it is missing" in capsys.readouterr().err


def test_adopting_takes_modality_kind_and_starter(folder, tmp_path, capsys):
    (folder / "env" / "train.py").write_text("# TODO: train the model here\nprint(valid_mae)\n")
    stated = ["--better", "lower", "--best", "0", "--seconds", "10"]
    assert main(["tasks", "adopt", str(folder), *stated]) == 2
    told = capsys.readouterr().err
    assert "env/train.py, line 2 (print(valid_mae)): NameError" in told and "gap open on line 1" in told
    assert "--starter" in told and told.count("cause:") == 1
    mine = tmp_path / "first_try.py"
    mine.write_text((SHAPE / "env" / "train.py").read_text())
    stated += ["--modality", "tabular", "--kind", "regression", "--starter"]
    assert main(["tasks", "adopt", str(folder), *stated, "nowhere.py"]) == 2
    assert "there is no starter nowhere.py" in capsys.readouterr().err
    assert main(["tasks", "adopt", str(folder), *stated, "../scripts/eval.py"]) == 2
    assert "there is no starter" in capsys.readouterr().err
    assert main(["tasks", "adopt", str(folder), *stated, str(mine)]) == 0
    task = load_task(folder)
    assert (task.modality, task.kind, task.starter) == ("tabular", "regression", "first_try.py")
    assert task.baseline["report"] == pytest.approx(STARTER_ERROR)
    assert "TODO" in (folder / "env" / "train.py").read_text(), "the folder's own file stays"
    assert "MLAgentBench" not in (folder / "task.yaml").read_text(), "another folder is not said to be of it"
    assert main(["tasks", "check", str(folder)]) == 0


def test_a_starter_never_takes_the_place_of_another_file(folder, tmp_path):
    other = tmp_path / "train.py"
    other.write_text("print(1)\n")
    with pytest.raises(TaskError, match="is another file than .*train.py, and stays as it is"):
        mlagentbench.place_starter(folder, str(other))
    assert mlagentbench.place_starter(folder, "./train.py") == "train.py"
    make(folder, {"env/src/main.py": "pass"})
    assert mlagentbench.place_starter(folder, "src/../src/main.py") == "src/main.py"


def test_known_folders_are_of_the_benchmark(prepared, tmp_path, runner):
    known = shutil.copytree(prepared, tmp_path / "house-price")
    adopt_folder(
        load_task(known, limits=LIMITS), lambda t, files: runner.run(task_request(t, files)), best=0.0
    )
    assert "github.com/snap-stanford/MLAgentBench" in load_task(known).provenance


def test_messages_name_options_and_no_functions_of_python(folder):
    with pytest.raises(TaskError) as error:
        load_task(folder)
    assert "--better" in error.value.cure and "(" not in error.value.cure


def test_a_prompt_says_nothing_of_sizes_that_are_not_known(task):
    from mlagent_lib.agents.prompts import card

    assert "Data" not in card(task) and " 0 " not in card(task)
    assert "Data: 12 rows. Facts" in card(replace(task, rows=12))
    assert "Data: 12 rows, 3 columns. Facts" in card(replace(task, rows=12, columns=3))


def test_scores_are_numbers_of_the_grader_and_never_of_the_script(task):
    assert np.isfinite(grade(task, STARTERS)) and MARKER == "prepared"
