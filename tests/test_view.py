"""The page to browse trajectories: nothing of a reply is markup, nothing is lost, and it stays quick.

What needs a browser runs in headless Chromium where there is one, and is skipped with that reason elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import time
from html.parser import HTMLParser

import chromium
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import SCRIPT, step, trajectory
from test_show import HOSTILE

from mlagent_lib.cli import main
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import append_jsonl
from mlagent_lib.results.browser import page_html, widget, write_page
from mlagent_lib.results.browser.data import STEP_COLUMNS, changed_blocks, counts_by_policy, payload
from mlagent_lib.results.browser.rows import Scale, TrajectoryFile, read_files, scales_of
from mlagent_lib.results.show import reply_fields, reply_pieces

NASTY = f"{HOSTILE}</script><script>window.pwned=1</script><!--<script>\u2028\u2029\ud800'\"`"
COLUMN = {name: i for i, name in enumerate(STEP_COLUMNS)}


def good_steps() -> list[dict]:
    """Return an edit that helps, an error and a valid action."""
    worse = "import numpy as np\n\n# model\nmodel = Nothing()\n"
    return [
        step(0),
        step(1, outcome="error", reason="NameError", score_before=0.6, score_after=None, reward=0.0,
             observation="Traceback\nNameError: Nothing", script_before=SCRIPT.replace("0.001", "1.0"),
             script_after=worse),
        step(2, outcome="neutral", action="List Files", score_before=0.6, score_after=None, reward=0.5,
             reply="Thought: look\nAction: List Files\nAction Input: {}", script_before=worse,
             script_after=worse),
    ]  # fmt: skip


def write(path, rows) -> None:
    for row in rows:
        append_jsonl(path, row)


@pytest.fixture
def run(tmp_path):
    """A run with an expert, two policies, and an agent of its own folder that repeats a name."""
    folder = tmp_path / "runs" / "laptop-seed0"
    write(folder / "01_collection" / "trajectories.jsonl", [trajectory("up", "expert", 0.6)])
    evaluated = [
        trajectory("up", "sft", 0.6, steps=good_steps()),
        trajectory("down", "rl", 1.5, steps=[step(0, score_before=2.0, score_after=1.5, reward=0.75)]),
        trajectory("far", "rl", 0.6, steps=[]),
    ]
    write(folder / "04_evaluation" / "trajectories.jsonl", evaluated)
    again = trajectory("up", "sft", 0.6, source="served-7b", steps=[step(0, outcome="unscored", reward=None)])
    write(folder / "agents" / "served-7b" / "trajectories.jsonl", [again])
    table = "task,metric,greater_is_better,best\nup,accuracy,True,0.9\ndown,rmse,False,1.0\n"
    (folder / "04_evaluation" / "tasks.csv").write_text(table)
    return folder


def data_of(page: str) -> dict:
    """Return what the page embeds, as its script reads it."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def texts_of(data: dict, name: str) -> list[str]:
    """Return one text column of all steps."""
    steps = [s for t in data["trajectories"] for s in t["steps"]]
    return [data["texts"][s[COLUMN[name]]] for s in steps]


# What is read


def test_every_file_of_a_run_is_a_source(run):
    (run / "01_collection.old-1").mkdir()
    shutil.copy(run / "01_collection" / "trajectories.jsonl", run / "01_collection.old-1")
    (run / ".hidden").mkdir()
    shutil.copy(run / "01_collection" / "trajectories.jsonl", run / ".hidden")
    names = [file.name for file in read_files(run)]
    assert names == [
        "01_collection/trajectories.jsonl",
        "04_evaluation/trajectories.jsonl",
        "agents/served-7b/trajectories.jsonl",
    ]
    data = data_of(page_html(run))
    assert data["files"] == names
    assert [(t["policy"], t["file"]) for t in data["trajectories"]] == [
        ("expert", 0), ("sft", 1), ("rl", 1), ("rl", 1), ("served-7b", 2)
    ]  # fmt: skip
    assert list(data["policies"]) == ["expert", "sft", "rl", "served-7b"]  # the order of all figures
    assert data["policies"]["rl"] == "after RL" and data["policies"]["served-7b"] == "served-7b"


def test_two_rows_of_one_name_get_different_links(run):
    keys = [t["key"] for t in data_of(page_html(run))["trajectories"]]
    assert keys == ["expert-up-0-0", "sft-up-0-0", "rl-down-0-0", "rl-far-0-0", "sft-up-0-0~2"]


def test_one_file_alone_can_be_shown(run):
    written = write_page(run / "01_collection" / "trajectories.jsonl")
    assert written.path == run / "01_collection" / "view.html"
    assert (written.trajectories, written.steps, written.files) == (1, 2, 1)


def test_damaged_rows_are_counted_and_named_and_spoil_no_other(run):
    path = run / "04_evaluation" / "trajectories.jsonl"
    without = trajectory("up", "rl", 0.7, k=8)
    del without["steps"][0]["reply"]
    infinite = json.dumps(trajectory("up", "rl", 0.7, k=9)).replace("0.25", "Infinity")
    with open(path, "ab") as handle:
        for line in (
            b'{"schema": "mlag',
            b"\xff\xfe",
            b"[]",
            json.dumps(without).encode(),
            infinite.encode(),
        ):
            handle.write(line + b"\n")
    append_jsonl(path, trajectory("up", "rl", 0.7, k=5))
    written = write_page(run)
    name = "04_evaluation/trajectories.jsonl"
    assert [p.split(": ")[0] for p in written.problems] == [f"{name}, line {n}" for n in (4, 5, 6, 7, 8)]
    assert "not a line of JSON" in written.problems[0] and "not a line of JSON" in written.problems[1]
    assert "must be object" in written.problems[2]
    assert "field 'steps[0].reply' is missing" in written.problems[3]
    assert "finite number" in written.problems[4]
    page = written.path.read_text()
    assert "Left out because damaged: 5" in page and "line 7: field" in page
    assert written.trajectories == 6 and "rl-up-0-5" in page


def test_the_page_names_only_so_many_damaged_rows_but_counts_all(tmp_path):
    (tmp_path / "trajectories.jsonl").write_text("x\n" * 100)
    page = page_html(tmp_path)
    assert "Left out because damaged: 100" in page and "and 60 more" in page
    assert page.count("not a line of JSON") == 40


def test_a_file_that_cannot_be_opened_is_named(run):
    (run / "agents" / "gone").mkdir()
    (run / "agents" / "gone" / "trajectories.jsonl").symlink_to(run / "nowhere")
    written = write_page(run)
    assert written.problems == ("agents/gone/trajectories.jsonl, cannot be read: No such file or directory",)
    assert written.trajectories == 5


def test_a_missing_run_is_an_error_with_a_cure(tmp_path, capsys):
    with pytest.raises(RunError, match="there is no run folder"):
        write_page(tmp_path / "none")
    assert main(["view", str(tmp_path / "none")]) == 2
    assert "What to do: make a run with `mlagent run`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "There is no trajectories.jsonl in this folder or below it."),
        ("", "The files are empty: 01_collection/trajectories.jsonl."),
        ("torn\n", "The files are there, but every row is damaged."),
    ],
)
def test_an_empty_run_explains_itself(tmp_path, capsys, content, why):
    folder = tmp_path / "laptop-seed0"
    (folder / "01_collection").mkdir(parents=True)
    if content is not None:
        (folder / "01_collection" / "trajectories.jsonl").write_text(content)
    assert main(["view", str(folder)]) == 0
    page, out = (folder / "view.html").read_text(), capsys.readouterr().out
    assert why in page and why in out and "`mlagent run` writes them" in page
    assert '<div id="app" hidden>' in page
    assert why in repr(widget(folder))


# Scores


def test_the_best_known_score_is_that_of_the_labels_that_the_steps_were_scored_on(tmp_path):
    from mlagent_lib.tasks.pocket.suite import recorded_scores

    digits, homes = (recorded_scores()[f"pocket-{name}"] for name in ("digits", "homes"))

    def row(task, digest):
        return {"task": task, "steps": [{"state": {"task_digest": digest}}]}

    rows = [row("pocket-digits", digits["digest"]), row("pocket-homes", "another"), row("mine", None)]
    (tmp_path / "04_evaluation").mkdir()
    table = (
        "task,metric,greater_is_better,best\npocket-digits,accuracy,True,0.5\npocket-homes,mae,False,2.5\n"
    )
    (tmp_path / "04_evaluation" / "tasks.csv").write_text(table)
    scales, problems = scales_of(tmp_path, rows)
    assert scales["pocket-digits"] == Scale("accuracy", "higher", digits["best"]["feedback"], "feedback")
    assert scales["pocket-homes"] == Scale("mae", "lower", 2.5, "report")  # other data than those measured
    assert homes["best"]["feedback"] != 2.5
    assert scales["mine"] == Scale() and problems == []


@pytest.mark.parametrize(
    "table", ["task,metric\nup,auc\n", "task,metric,greater_is_better,best\nup,auc,True,x\n"]
)
def test_a_damaged_table_is_named_and_the_page_is_made(run, table):
    (run / "04_evaluation" / "tasks.csv").write_text(table)
    written = write_page(run)
    [problem] = written.problems
    assert problem.startswith("04_evaluation/tasks.csv: ")
    assert written.trajectories == 5 and data_of(written.path.read_text())["scales"]["up"]["best"] is None


def test_counts_worked_by_hand(run):
    lines = {line["policy"]: line for line in counts_by_policy(data_of(page_html(run)))}
    sft = lines["after SFT"]
    assert (sft["trajectories"], sft["steps"], sft["edited"], sft["error"], sft["neutral"]) == (1, 3, 1, 1, 1)
    assert sft["mean reward"] == pytest.approx((0.25 + 0.0 + 0.5) / 3)
    rl = lines["after RL"]
    assert (rl["trajectories"], rl["steps"], rl["edited"], rl["mean reward"]) == (2, 1, 1, 0.75)
    served = lines["served-7b"]
    assert (served["steps"], served["unscored"], served["mean reward"]) == (1, 1, None)  # not zero


# What is embedded


def test_a_script_that_all_share_is_kept_once():
    file = TrajectoryFile("trajectories.jsonl", [trajectory("up", "rl", 0.7, k=k) for k in range(50)])
    data = payload([file], {"up": Scale()})
    assert (len(data["scripts"]), len(data["diffs"]), len(data["replies"])) == (2, 1, 1)
    assert sorted(data["lines"]) == sorted({*SCRIPT.split("\n"), "model = LogisticRegression(C=1.0)"})
    assert len(json.dumps(data["trajectories"][-1])) < 600  # what one more costs, in bytes


lines = st.lists(st.sampled_from("abcd"), max_size=12).map(tuple)


@given(lines, lines)
def test_the_changed_blocks_turn_one_script_into_the_other(before, after):
    flat, out, at = changed_blocks(before, after), [], 0
    for a, b, c, d in zip(*[iter(flat)] * 4, strict=True):
        out += before[at:a]
        assert before[at:a] == after[len(out) - (a - at) : len(out)] and len(out) == c
        out += after[c:d]
        at = b
    assert tuple(out) + before[at:] == after
    assert (flat == ()) == (before == after)


@given(
    st.text(st.sampled_from("Thougt:Acin \nInput{}R"), max_size=60)
    | st.just("x\nThought: a\nThought : b\nAction: c")
)
def test_the_pieces_of_a_reply_are_the_reply(reply):
    pieces = reply_pieces(reply)
    assert "".join(text for _, text in pieces) == reply
    assert {name for name, _ in pieces} - {""} == set(reply_fields(reply)) - {"(before the fields)"}


class Elements(HTMLParser):
    """Collects elements, attributes and the text of scripts and styles as a browser would see them."""

    def __init__(self, page: str):
        super().__init__()
        self.names, self.attributes, self.raw, self._inside = [], set(), [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self._inside = tag if tag in ("script", "style") else None
        if self._inside:
            self.raw.append([tag, ""])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.raw[-1][1] += data


@pytest.fixture
def hostile(tmp_path):
    """A run whose every text is an attack, its own name too."""
    reply = f'Thought: {NASTY}\nAction: {NASTY}\nAction Input: {{"x": "{HOSTILE}"}}'
    script = f"{SCRIPT}{NASTY}"
    bad = step(reply=reply, action=NASTY, observation=NASTY, reason=NASTY, script_after=script, tier=NASTY)
    row = {**trajectory("up", NASTY, 0.7, steps=[bad]), "task": NASTY, "id": NASTY}
    row["ideas"], row["final"]["stop"] = [{"key": NASTY, "axis": NASTY, "instruction": NASTY}], NASTY
    folder = tmp_path / "<img src=x onerror=alert(1)>&"
    folder.mkdir()
    lines = [json.dumps(row), json.dumps({**row, "steps": HOSTILE})]
    (folder / "trajectories.jsonl").write_text("\n".join(lines))
    (folder / f"trajectories-{'<b>'}.jsonl").write_text("")
    return folder


def test_hostile_text_never_becomes_markup(hostile):
    page = page_html(hostile)
    seen = Elements(page)
    assert seen.names.count("script") == 2 and not set(seen.names) & {"img", "iframe", "b"}
    assert not any(name.startswith("on") for name in seen.attributes)
    data_block = seen.raw[1][1]
    assert not set("<>&\u2028\u2029\u202e\x1b") & set(data_block) and data_block.isascii()
    page.encode("utf-8")  # halves of surrogate pairs would fail here
    data = json.loads(data_block)
    shown = (
        "</script><script>window.pwned=1</script><!--<script>\\u2028\\u2029\\ud800'\"`"  # seen, not dropped
    )
    for name in ("action", "reason", "feedback", "tier"):
        assert texts_of(data, name)[0].endswith(shown)
    assert data["trajectories"][0]["key"].endswith(shown) and list(data["policies"])[0].endswith(shown)


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_loaded(run):
    page = page_html(run)
    raw = {name: text for name, text in Elements(page).raw}  # the second script is the code, the first data
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[1]
    for kind, text in (("script", raw["script"]), ("style", raw["style"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//|file:|/)|@import|url\(""", page)
    assert "innerHTML" not in page and "insertAdjacentHTML" not in page and "eval(" not in page


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run, tmp_path):
    first = write_page(run).path.read_bytes()
    shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    assert (
        write_page(tmp_path / "elsewhere" / run.name).path.read_bytes()
        == first
        == write_page(run).path.read_bytes()
    )
    assert str(tmp_path).encode() not in first


def test_states_which_are_most_of_a_file_are_left_out(tmp_path):
    rows = [trajectory("up", "rl", 0.7, k=k) for k in range(3)]
    for row in rows:
        row["steps"][0]["state"] = {"task_digest": "d", "history": ["SECRETLY LONG"] * 1000}
    write(tmp_path / "trajectories.jsonl", rows)
    page = page_html(tmp_path)
    assert "SECRETLY LONG" not in page and len(page) < 60_000


# The command and the widget


def test_the_command_writes_the_page_and_says_what_is_in_it(run, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    out = tmp_path / "pages" / "page.html"
    assert main(["view", str(run), "--out", str(out), "--open"]) == 0
    assert capsys.readouterr().out == f"{out}: 5 trajectories · 7 steps · 3 files\n"
    assert opened == [out.as_uri()] and out.is_file() and not (run / "view.html").exists()
    assert main(["view", str(run), "--out", str(tmp_path)]) == 0 and (tmp_path / "view.html").is_file()
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert main(["view", str(run), "--open"]) == 0 and (run / "view.html").is_file()
    assert "no browser was found here" in capsys.readouterr().out


def test_the_command_names_damaged_rows_and_cuts_the_list(tmp_path, capsys):
    (tmp_path / "trajectories.jsonl").write_text("x\n" * 9)
    assert main(["view", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("left out: trajectories.jsonl, line") == 5 and "and 4 more: the page names them" in out


def test_the_widget_is_the_page_in_a_frame_without_rights(run):
    shown = widget(run, policies=["sft", "rl"], tasks=["up", "down"], height=500)
    page = page_html(run, policies=["sft", "rl"], tasks=["up", "down"])
    frame = re.search(
        r'<iframe [^>]*sandbox="([^"]*)"[^>]*height:500px[^>]*srcdoc="([^"]*)"></iframe>', shown.html
    )
    assert frame[1] == "allow-scripts"  # no origin: neither the notebook nor its cookies
    assert html.unescape(frame[2]) == page
    assert [t["policy"] for t in data_of(page)["trajectories"]] == ["sft", "rl"]
    assert shown.text.startswith("Trajectories of laptop-seed0: 2 trajectories · 4 steps")
    assert re.search(r"after SFT +1 +3 +0 +1 +1 +0 +1 +0 +0 +0 +0\.250", shown.text)
    assert "No trajectory is of the policies and tasks" in repr(widget(run, policies=["nobody"]))


# In a browser

needs_chromium = pytest.mark.skipif(chromium.find() is None, reason="needs Chromium or Chrome on the PATH")


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium(chromium.find()) as found:
        yield found


@pytest.fixture
def tab(browser, tmp_path):
    """Return a function that opens the page of a run in a tab."""
    tabs = []

    def opened(folder, fragment="", **look):
        path = tmp_path / "page.html"
        if not path.exists():
            write_page(folder, path)
        tabs.append(browser.page(**look))
        tabs[-1].open(path.as_uri() + fragment)
        return tabs[-1]

    yield opened
    for one in tabs:
        one.close()


def set_value(page, name: str, value: str) -> None:
    """Give a filter a value as a reader would, and wait until it is painted."""
    page.run(
        f"(() => {{ const field = document.getElementById('{name}'); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    page.settle()


def text(page, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).innerText")


def number_of(page, selector: str) -> int:
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


@needs_chromium
def test_a_step_shows_its_fields_diff_score_reward_and_folded_feedback(tab, run):
    page = tab(run, "#trajectory=sft-up-0-0&step=0")
    step_text = text(page, "#step")
    for word in ("Reflection", "Research Plan and Status", "Fact Check", "Thought", "Edit Script (AI)",
                 "edit_instruction", "✓ edited", "score 0.5 → 0.6 ▲ better", "reward 0.25"):  # fmt: skip
        assert word in step_text, word
    assert "- model = LogisticRegression(C=0.001)" in step_text
    assert "+ model = LogisticRegression(C=1.0)" in step_text
    assert text(page, ".diff .mla-add b") == "1.0"
    assert "Feedback, 2 lines" in step_text and "second line" not in step_text
    assert number_of(page, ".chart line.start") == 1 and number_of(page, ".chart line.best") == 1
    assert "* measured on the report labels" in text(page, "#chart")
    assert page.run("document.querySelector('.chart').getAttribute('aria-label')") == (
        "Score over the steps. Start 0.5, best known 0.9. step 0: edited, score 0.6; "
        "step 1: error, no score; step 2: neutral, no score."
    )
    page.run("document.querySelector('#step summary').click()")
    page.settle()
    assert "second line" in text(page, "#step")
    page.key("ArrowRight")
    assert "NameError: Nothing" in text(page, "#step")  # what was unfolded stays unfolded
    assert page.errors == []


@needs_chromium
def test_the_keys_walk_through_steps_and_trajectories(tab, run):
    page = tab(run)
    assert "expert-up-0-0" in text(page, "#detail h2")
    page.key("ArrowRight", "ArrowRight", "ArrowRight")  # the last step is 1: no further
    assert text(page, "#step h3").startswith("Step 1 (of 0 to 1)")
    page.key("ArrowLeft")
    assert text(page, "#step h3").startswith("Step 0")
    page.run("document.getElementById('list').focus()")
    page.key("ArrowDown", "ArrowRight")
    assert "sft-up-0-0" in text(page, "#detail h2") and text(page, "#step h3").startswith(
        "Step 1 (of 0 to 2): "
    )
    assert page.run("location.hash") == "#trajectory=sft-up-0-0&step=1"
    assert page.run("document.getElementById('list').getAttribute('aria-activedescendant')") == "row-1"
    assert page.run("document.querySelector('[aria-selected=true]').id") == "row-1"
    page.key("End")
    assert "sft-up-0-0~2" in text(page, "#detail h2")
    page.key("Home")
    assert "expert-up-0-0" in text(page, "#detail h2")
    page.run("document.getElementById('words').focus()")
    page.key("ArrowRight")  # moves in the text, not through the steps
    assert text(page, "#step h3").startswith("Step 0")
    page.run("[...document.querySelectorAll('.turn')].pop().focus()")
    page.run("document.activeElement.click()")
    assert text(page, "#step h3").startswith("Step 1")
    assert page.run("document.activeElement.getAttribute('aria-current')") == "step"  # the focus is not lost


@needs_chromium
def test_a_link_opens_its_step_and_a_wrong_one_says_so(tab, run):
    page = tab(run, "#trajectory=sft-up-0-0~2&step=0")
    assert "sft-up-0-0~2" in text(page, "#detail h2") and "served-7b" in text(page, "#detail")
    page.run("location.hash = '#trajectory=sft-up-0-0&step=2'")
    page.settle()
    assert text(page, "#step h3") == "Step 2 (of 0 to 2): List Files"
    page.run("location.hash = '#trajectory=nobody<b>&step=2'")
    page.settle()
    assert "not on this page: nobody<b>" in text(page, "#detail [role=alert]")
    set_value(page, "policy", "rl")
    assert text(page, "#found") == "2 of 5 trajectories"  # and the message stays
    page.run("location.hash = '#trajectory=rl-far-0-0&step=0'")
    page.settle()
    assert "No step was taken" in text(page, "#step") and page.errors == []


@needs_chromium
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"policy": "rl"}, ["rl-down-0-0", "rl-far-0-0"]),
        ({"task": "up", "file": "1"}, ["sft-up-0-0"]),
        ({"split": "held-out"}, ["rl-far-0-0"]),
        ({"outcome": "error"}, ["sft-up-0-0"]),
        ({"low": "0.3"}, ["sft-up-0-0", "rl-down-0-0"]),
        ({"low": "0.3", "high": "0.6"}, ["sft-up-0-0"]),
        ({"outcome": "edited", "low": "0.3"}, ["rl-down-0-0"]),  # one step must meet both
        ({"outcome": "unscored"}, ["sft-up-0-0~2"]),
        ({"outcome": "unscored", "low": "-9"}, []),  # no reward is not a low reward
        ({"words": "nameerror"}, ["sft-up-0-0"]),
        ({"words": 'nothing "import numpy"'}, []),  # that line is in no change
        ({"words": '"model = nothing" traceback'}, ["sft-up-0-0"]),
        ({"words": "after rl"}, ["rl-down-0-0", "rl-far-0-0"]),
        ({"order": "number of steps", "task": "up"}, ["sft-up-0-0", "expert-up-0-0", "sft-up-0-0~2"]),
    ],
)  # fmt: skip
def test_filters_leave_what_they_say(tab, run, filters, expected):
    page = tab(run)
    for name, value in filters.items():
        set_value(page, name, value)
    assert page.run("[...document.querySelectorAll('.row')].map(row => row.title)") == expected
    assert page.errors == []


@needs_chromium
def test_filters_can_be_cleared_and_an_empty_list_says_what_to_do(tab, run):
    page = tab(run)
    set_value(page, "words", "there is no such text")
    assert "None of 5" in text(page, "#found") and "Clear a filter" in text(page, "#found")
    page.run("document.querySelector('button[type=reset]').click()")
    page.settle()
    assert text(page, "#found") == "5 of 5 trajectories" and number_of(page, ".row") == 5


@needs_chromium
def test_the_table_of_counts_is_that_of_python_and_follows_the_filters(tab, run):
    page = tab(run)
    page.run("document.getElementById('counts').open = true")
    page.settle()
    rows = "[...document.querySelectorAll('#count-table tbody tr')]"
    cells = f"{rows}.map(row => [...row.children].map(cell => cell.innerText))"
    expected = []
    for line in counts_by_policy(data_of(page_html(run))):
        *counts, mean = line.values()
        expected.append(
            [str(value) for value in counts]
            + ["–" if mean is None else f"{mean:.3f}".rstrip("0").rstrip(".")]
        )
    assert page.run(cells) == expected
    set_value(page, "policy", "rl")
    set_value(page, "count-by", "task")
    page.run("document.getElementById('count-by').dispatchEvent(new Event('change'))")
    assert [row[:3] for row in page.run(cells)] == [["down", "1", "1"], ["far", "1", "0"]]


@needs_chromium
def test_hostile_text_is_shown_and_does_nothing(tab, hostile):
    page = tab(hostile)
    assert page.run("typeof window.pwned") == "undefined"
    for summary in range(3):
        page.run(f"document.querySelectorAll('#step summary')[{summary}].click()")
    page.settle()
    assert number_of(page, "img, iframe, #detail script, #list script") == 0
    seen = text(page, "#step")
    assert "<script>alert(1)</script>" in seen and "\\u202e" in seen and "\\ud800" in seen
    assert page.run("document.title") == "Trajectories of <img src=x onerror=alert(1)>&"
    assert page.errors == [] and page.requests == [(hostile.parent / "page.html").as_uri()]


@needs_chromium
def test_the_policy_of_the_page_refuses_any_other_script(tab, run):
    page = tab(run)
    page.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.bad = 1'; "
        "document.body.append(s); const i = document.createElement('img'); i.src = 'file:///nothing.png'; "
        "document.body.append(i); })()"
    )
    page.settle()
    assert page.run("typeof window.bad") == "undefined" and number_of(page, "body > script") == 3
    assert any("Content Security Policy" in error for error in page.errors)
    assert len(page.requests) == 1


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_narrow_wide_light_and_dark(tab, run, dark):
    page = tab(run, width=360, height=700, dark=dark)
    for width in (360, 1280):
        page.size(width, 700)
        page.settle()
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), width
    light = page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light != dark
    assert contrast(page, "#step .mla-soft") > 4.5 and contrast(page, ".mla-add") > 4.5
    names = "[...document.querySelectorAll('button, select, input, [role=listbox], .chart, main, pre')]"
    unnamed = (
        f"{names}.filter(e => !e.getAttribute('aria-label') && !e.innerText.trim() && !e.labels?.length)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.run(unnamed) == []


def contrast(page, selector: str) -> float:
    """Return the contrast of a text with its ground, as WCAG defines it: 1 to 21."""
    colours = page.run(
        f"(() => {{ let e = document.querySelector('{selector}'); const ink = getComputedStyle(e).color;"
        "while (getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
        "return [ink, getComputedStyle(e).backgroundColor]; })()"
    )

    def light(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dim, bright = sorted(light(colour) for colour in colours)
    return (bright + 0.05) / (dim + 0.05)


@needs_chromium
@pytest.mark.parametrize(("theme", "ground"), [("true", "rgb(255, 255, 255)"), ("false", "rgb(20, 23, 27)")])
def test_the_widget_works_in_a_notebook_and_follows_its_theme(browser, run, tmp_path, theme, ground):
    path = tmp_path / "notebook.html"  # as JupyterLab and nbconvert show an output: markup in their page
    path.write_text(f'<!doctype html><body data-jp-theme-light="{theme}">{widget(run)._repr_html_()}</body>')
    page = browser.page()
    page.open(path)
    frame = browser.frame()
    assert number_of(frame, ".row") == 5
    assert frame.run("getComputedStyle(document.body).backgroundColor") == ground
    frame.run("document.querySelectorAll('.row')[1].click()")
    frame.run(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }))"
    )
    frame.settle()
    assert text(frame, "#step h3").startswith("Step 1 (of 0 to 2)")
    assert number_of(frame, "#step a") == 0  # there is no address to link to
    assert (
        frame.run("(() => { try { return parent.document.title } catch { return 'refused' } })()")
        == "refused"
    )
    assert frame.errors == []
    page.close()


# A thousand


def thousand() -> list[dict]:
    """Return 1,000 trajectories of 6 steps: scripts of 45 lines, a kilobyte of feedback, few repetitions."""
    rows = []
    for number in range(1000):
        lines, steps, score = [f"value_{k} = compute({k}, seed=0)" for k in range(44)], [], 0.5
        for index in range(6):
            before = "\n".join(lines)
            lines = list(lines)
            lines[(7 * number + index) % 44] = f"model_{index} = Forest(trees={number}, depth={index})"
            is_good = (number + index) % 3 > 0
            after = round(0.5 + 0.3 * ((number * 31 + index * 17) % 97) / 97, 4) if is_good else None
            reply = (
                f"Reflection: trial {number} of the forest\nThought: depth {index} may do\n"
                "Action: Edit Script (AI)\nAction Input: "
                f'{{"edit_instruction": "{number} trees, depth {index}"}}'
            )
            steps.append(
                step(index, reply=reply, observation=f"epoch {number}.{index}: loss 0.123456789\n" * 30,
                     outcome="edited" if is_good else "error", score_before=score, score_after=after,
                     reward=after if is_good else 0.0, script_before=before, script_after="\n".join(lines))
            )  # fmt: skip
            score = after if is_good else score
        rows.append(trajectory("up", ("sft", "rl")[number % 2], 0.7, k=number, steps=steps))
    return rows


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """The page of 1,000 trajectories, and the seconds of a core that it took to write."""
    folder = tmp_path_factory.mktemp("big")
    rows = "\n".join(json.dumps(row) for row in thousand())
    (folder / "trajectories.jsonl").write_text(rows + "\n")
    started = time.process_time()
    written = write_page(folder)
    return written, time.process_time() - started


def test_a_page_of_a_thousand_trajectories_is_small_and_soon_made(big):
    written, seconds = big
    assert (written.trajectories, written.steps) == (1000, 6000)
    raw = (written.path.parent / "trajectories.jsonl").stat().st_size
    assert written.path.stat().st_size < 9e6 < raw / 2
    assert seconds < 15


@needs_chromium
def test_a_thousand_trajectories_open_within_two_seconds_and_filter_at_once(browser, big):
    page, path, rewards = browser.page(), big[0].path, [[s["reward"] for s in r["steps"]] for r in thousand()]
    good = sum(max(values) >= 0.75 for values in rewards)
    for _ in range(3):  # other work on the machine is no fault of the page: one undisturbed try is enough
        page.open(path)
        opened = page.run("performance.getEntriesByName('mlagent:open')[0].duration")
        assert 5 < number_of(page, ".row") < 60
        waits = {}
        for name, value, left in (("words", "trees depth", 1000), ("words", "777", 1), ("policy", "rl", 1)):
            waits[name, value] = painted(page, name, value)
            assert text(page, "#found") == f"{left} of 1000 trajectories"
        page.run("document.querySelector('button[type=reset]').click()")
        page.settle()
        waits["low"] = painted(page, "low", "0.75")
        assert text(page, "#found") == f"{good} of 1000 trajectories"
        if opened < 2000 and max(waits.values()) < 200:
            break
    assert opened < 2000
    assert max(waits.values()) < 200, waits
    for place in (2000, 4000, 6000, 8000, 1e9):
        page.run(f"document.getElementById('list').scrollTop = {place}")
        page.settle()
    assert number_of(page, ".row") < 60
    assert number_of(page, f"#row-{good - 1}") == 1
    assert page.errors == []
    print(f"opened in {opened} ms, filtered in {waits} ms")
    page.close()


def painted(page, name: str, value: str) -> float:
    """Return the milliseconds from a change of a filter to the painted list."""
    return page.run(
        "new Promise(done => { const start = performance.now();"
        f"const field = document.getElementById({json.dumps(name)}); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input', { bubbles: true }));"
        "requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))); })"
    )
