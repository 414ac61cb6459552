"""Pages to read: everything is escaped, and nothing of a trajectory is lost or turned round."""

from html.parser import HTMLParser

import pandas as pd
import pytest
from synthetic_run import SCALES, SCRIPT, step, trajectory

from mlagent_lib.results.evaluation import gap_closed
from mlagent_lib.results.show import (
    MAX_LINES,
    Shown,
    escape,
    reply_fields,
    show_source,
    show_trajectory,
    table_html,
)
from mlagent_lib.run import notebook_tables as story

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)"></pre></style>&amp;\u202e\x1b[31m'


class Tags(HTMLParser):
    """Collects the tags and attributes that a browser would see, and checks that they nest."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes, self.open = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags_of(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    assert not found.open
    return found


def test_hostile_text_in_every_field_stays_text():
    bad = step(
        0,
        reply=f'Thought: {HOSTILE}\nAction: {HOSTILE}\nAction Input: {{"{"x"}": "<b>"}}',
        action=HOSTILE,
        observation=HOSTILE,
        reason=HOSTILE,
        outcome=HOSTILE,
        script_after=f"{SCRIPT}{HOSTILE}",
    )
    row = trajectory("up", HOSTILE, 0.7, steps=[bad], ideas=[{"axis": HOSTILE, "instruction": HOSTILE}])
    row["final"]["stop"] = row["split"] = HOSTILE
    shown = show_trajectory(row, SCALES["up"])
    found = tags_of(shown.html)
    assert not found.names & {"script", "img", "b", "iframe"}
    assert not any(name.startswith("on") for name in found.attributes)
    assert "\u202e" not in shown.html and "\x1b" not in shown.html
    assert "\x1b" not in repr(shown)
    assert "\\u202e" in shown.html  # shown, not dropped


@pytest.mark.parametrize(
    "unseen", ["\u2028", "\u2066", "\u200b", "\u00ad", "\u3164", "\u2062", "\U000e0041", "\r", "\x9b"]
)
def test_what_is_not_seen_is_shown_in_each_form(unseen):
    text, seen = f"x = 1  # a{unseen}b", f"x = 1  # a\\u{ord(unseen):04x}b"
    row = trajectory(
        "up", "rl", 0.7, steps=[step(0, reply=text, observation=text, script_after=SCRIPT + text)]
    )
    shown = [story.say(text), story.block(text), story.diff("", text), show_trajectory(row)]
    for each in shown:
        assert seen in each.html and unseen not in each.html + repr(each)
        assert seen in each.text
    assert shown[-1].html.count(seen) == 3  # reply, feedback and changed line, none of them cut in two
    assert seen in table_html(pd.DataFrame({"a": [text]})).html


def test_what_joins_letters_and_signs_stays_as_it_is():
    joined = "\u0645\u06cc\u200c\U0001f468\u200d\U0001f469\ufe0f"  # Persian, and signs of one glyph
    assert escape(joined) == joined


def test_escape_keeps_newlines_and_unicode():
    assert escape("a\n\té→") == "a\n\té→"


def test_all_six_fields_diff_feedback_outcome_score_and_reward_are_there():
    text = repr(show_trajectory(trajectory("up", "rl", 0.7), SCALES["up"]))
    html = show_trajectory(trajectory("up", "rl", 0.7), SCALES["up"]).html
    for word in ("Reflection", "Research Plan and Status", "Fact Check", "Thought", "Action Input"):
        assert word in html and word in text
    for word in (
        "accuracy, higher is better",
        "0.5 → 0.6",
        "▲ better",
        "reward 0.250",
        "report score 0.5 → 0.7",
    ):
        assert word in html and word in text
    assert "-model = LogisticRegression(C=0.001)" in text
    assert '<span class="mla-l mla-add">+model = LogisticRegression(C=1.0)</span>' in html
    assert "<details><summary>Feedback, 2 lines</summary>" in html
    assert "✓ edited" in html and "○ neutral" in html


def test_direction_decides_what_better_means():
    down = show_trajectory(trajectory("down", "rl", 1.5), SCALES["down"])
    assert "▲ worse" in down.html and "better</span>" not in down.html
    assert "▲ up" in show_trajectory(trajectory("down", "rl", 1.5)).html


def test_a_reply_without_fields_is_shown_as_written():
    row = trajectory(
        "up", "base", 0.5, steps=[step(0, reply="I would rather not", outcome="invalid", action=None)]
    )
    assert "I would rather not" in show_trajectory(row).html
    assert "no action" in show_trajectory(row).html


def test_reply_fields_loses_no_text():
    assert reply_fields("hello") == {}
    found = reply_fields("before\nThought: a\nthought: b\nThought: c\nAction Input: {}")
    assert found == {
        "(before the fields)": "before",
        "Thought": "a\nthought: b\n(again) c",
        "Action Input": "{}",
    }


def test_an_unscored_step_has_no_reward():
    row = trajectory("up", "rl", 0.7, steps=[step(0, outcome="unscored", reward=None, score_after=None)])
    assert "no reward" in show_trajectory(row).html
    assert "? unscored" in show_trajectory(row).html


def test_a_long_feedback_is_cut_with_a_stated_limit():
    row = trajectory("up", "rl", 0.7, steps=[step(0, observation="line\n" * 5000)])
    assert f"{5000 - MAX_LINES} lines more" in show_trajectory(row).html
    assert len(show_trajectory(row).html) < 60_000


def test_only_the_first_steps_can_be_shown():
    assert "1 more steps not shown" in show_trajectory(trajectory("up", "rl", 0.7), steps=1).html


def test_shown_displays_itself_and_prints_as_text():
    shown = Shown("<p>x</p>", "x")
    assert (shown._repr_html_(), repr(shown), str(shown)) == ("<p>x</p>", "x", "<p>x</p>")


def test_show_source_shows_the_very_code():
    shown = show_source(gap_closed)
    tags_of(shown.html)
    assert "return (score - init) / (best - init)" in repr(shown)
    assert '<span class="mla-kw">def</span>' in shown.html
    assert "mlagent_lib.results.evaluation, line " in shown.html
    with pytest.raises(TypeError):
        show_source(3)


def test_table_rounds_aligns_and_escapes():
    df = pd.DataFrame({"<b>": ["<i>", None], "x": [0.12345, float("nan")], "n": [3, -4], "ok": [True, False]})
    html = table_html(df, caption="<u>").html
    tags_of(html)
    assert "<i>" not in html and "<u>" not in html and "<b>" not in html
    numbers = ('<td class="mla-n" data-name="x">0.123</td>', '<td class="mla-n" data-name="n">\u22124</td>')
    for cell in (*numbers, ">–<", ">yes<", ">no<"):
        assert cell in html
