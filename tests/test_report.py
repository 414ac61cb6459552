"""The page of a run: verdict from files, missing pieces named, nothing loaded from elsewhere, nothing run."""

import json
import re
from urllib.parse import unquote

import chromium
import pandas as pd
import pytest
from synthetic_run import SCALES, figure_tables, make_run, rows, step, trajectory
from test_show import HOSTILE, tags_of

from mlagent_lib.core.errors import RunError
from mlagent_lib.results.figures import render
from mlagent_lib.results.first_screen import first_screen
from mlagent_lib.results.report import write_report
from mlagent_lib.results.run_folder import read_run_folder


def page_of(folder) -> str:
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("runs") / "laptop-seed0")
    for name, df in figure_tables().items():
        render(name, df, folder / "figures")
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "02_sft.ipynb").write_text("{}")
    return folder


def test_a_whole_run_gives_a_whole_page(full):
    page = page_of(full)
    tags_of(page.replace("<!doctype html>", ""))
    assert "on held-in tasks it ended above SFT, on held-out tasks it ended above SFT" in page
    assert "Whether that holds is not decided: too few seeds." in page
    assert "Missing" not in page and "Not described" not in page
    assert page.count("data:image/svg+xml;base64,") == 11
    for title in (
        "Policies and tasks",
        "Learning",
        "One trajectory",
        "Where the minutes went",
        "What was run",
    ):
        assert f">{title}</h2>" in page and f">{title}</a>" in page
    assert 'href="notebooks/02_sft.ipynb"' in page
    assert "03_stepwise_grpo.ipynb: not executed yet" in page
    assert "T2 (" in page


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(full):
    page = page_of(full)
    assert not re.search(r"""(src|href)=["'](https?:|//|file:|/)""", page)
    assert not tags_of(page.replace("<!doctype html>", "")).names & {"script", "iframe", "object", "link"}
    assert "default-src 'none'" in page


@pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed")
def test_no_table_scrolls_sideways_and_a_telephone_shows_every_number(full):
    path = write_report(full)
    wide = "[...document.querySelectorAll('.mla-scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    named = "getComputedStyle(document.querySelector('td[data-name]'), '::before').content"
    with chromium.Chromium(chromium.find()) as browser:
        for width, shown in ((1280, "none"), (400, '"policy"')):
            page = browser.page(width)
            page.open(path)
            assert page.run(wide) == 0 and page.run("document.documentElement.scrollWidth") <= width
            assert page.run(named) == shown and page.errors == []
        dark = browser.page(1280, dark=True)
        dark.open(path)
        assert dark.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 27)"


def test_the_first_screen_says_what_a_fixed_edit_does(tmp_path):
    made = rows(k=6, means={"sft": 0.3, "rl": 0.6})
    same = [{**row, "source": "fixed-edit"} for row in made if row["source"] == "rl"]
    page = page_of(make_run(tmp_path / "same", made + same))
    head = page[: page.index("<main")]
    assert "The policy after RL cannot be told from the best fixed edit" in head
    assert "share of the commonest edit among the edits of the policy after RL: 1.00, limit 0.25" in head
    means = {"fixed-edit": 0.6, "sft": 0.3, "rl": 0.9}
    better = page_of(make_run(tmp_path / "more", rows(k=6, means=means)))
    assert "closes more of the gap than the best fixed edit" in better[: better.index("<main")]


def test_the_same_files_give_the_same_page(full):
    assert page_of(full) == page_of(full)


def test_verdict_words_follow_the_intervals(tmp_path):
    worse = make_run(tmp_path / "a", rows(means={"sft": 0.6, "rl": 0.3}))
    assert "it ended below SFT" in first_screen(read_run_folder(worse)).sentence
    same = make_run(tmp_path / "b", rows(k=6, means={"sft": 0.3, "rl": 0.3}))
    assert "it cannot be told from SFT" in first_screen(read_run_folder(same)).sentence
    single = make_run(tmp_path / "c", rows(k=1))
    assert "uncertainty cannot be told" in first_screen(read_run_folder(single)).sentence
    assert "(no interval)" in first_screen(read_run_folder(single)).tiles[0].value


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"sft": 0.3, "rl": 0.6}, "improved on SFT"),
        ({"sft": 0.6, "rl": 0.3}, "made the policy worse than after SFT"),
        ({"sft": 0.3, "rl": 0.3}, "showed no clear difference from SFT"),
    ],
)
def test_three_seeds_are_judged_as_the_claims_are(tmp_path, means, said):
    found = first_screen(read_run_folder(make_run(tmp_path / "run", rows((0, 1, 2), k=6, means=means))))
    assert said in found.sentence and "too few seeds" not in found.sentence


def test_verdict_numbers_by_hand(tmp_path):
    made = [trajectory("up", "sft", 0.6), trajectory("up", "rl", 0.8)]  # gap 0.25 and 0.75
    found = first_screen(read_run_folder(make_run(tmp_path / "a", made)))
    assert found.tiles[0].value.startswith("+0.50")
    assert "from 0.25 after SFT to 0.75 after RL" in found.tiles[0].note
    assert any("One seed" in note for note in found.caveats)
    reward = next(tile for tile in found.tiles if "not trained on" in tile.label and "reward" in tile.label)
    assert reward.value == "0.10 → 0.21"


def test_step_rewards_on_held_out_states_give_an_interval(tmp_path):
    folder = make_run(tmp_path / "a")
    lines = ["policy,seed,task,state,reward"]
    lines += [
        f"{p},0,up,{s},{(0.2 if p == 'rl' else 0.1) + s / 1000}" for p in ("sft", "rl") for s in range(9)
    ]
    (folder / "04_evaluation" / "step_rewards.csv").write_text("\n".join(lines))
    tile = next(t for t in first_screen(read_run_folder(folder)).tiles if "mean step reward" in t.label)
    assert tile.value == "+0.10 [0.10, 0.10]"
    assert tile.note == "9 states of 1 tasks, seeds: 1"


def test_smoke_says_what_it_is_not(tmp_path):
    found = first_screen(read_run_folder(make_run(tmp_path / "a", profile="smoke")))
    assert any("tests the machinery" in note for note in found.caveats)


def test_missing_pieces_are_named_with_the_command(tmp_path):
    folder = tmp_path / "runs" / "smoke-seed3"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"profile": "smoke", "seed": 3}))
    page = page_of(folder)
    assert "No verdict yet" in page
    assert "mlagent run --profile smoke --seed 3 --run-id smoke-seed3" in page
    for piece in ("figures/gap_by_policy.svg", "tasks.csv", "overall.csv", "metrics.jsonl", "the manifests"):
        assert piece in page


def test_damaged_pieces_are_named_and_stop_nothing(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "04_evaluation" / "tasks.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "04_evaluation" / "overall.csv").write_text("")
    with open(folder / "03_grpo" / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 1')
    (folder / "02_sft" / "manifest.json").write_text("[]")
    (folder / "run.json").write_text("[1]")
    page = page_of(folder)
    for piece in ("tasks.csv (damaged", "overall.csv (damaged", "1 unreadable lines", "damaged manifest"):
        assert piece in page


def test_a_notebook_of_an_odd_name_has_a_link_that_leads_to_it(tmp_path):
    folder = make_run(tmp_path / "a")
    name = "a#b?c %41\" onclick='x'.ipynb"
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks" / name).write_text("{}")
    found = re.findall(r'<a href="(notebooks/a[^"]*)">', page_of(folder))
    assert [unquote(link) for link in found] == [f"notebooks/{name}"]
    assert not set("#?'") & set(found[0]) and not any(
        n.startswith("on") for n in tags_of(page_of(folder).replace("<!doctype html>", "")).attributes
    )


def test_hostile_text_in_a_run_stays_text(tmp_path):
    made = [
        trajectory("up", p, 0.7, steps=[step(0, reply=HOSTILE, observation=HOSTILE)]) for p in ("sft", "rl")
    ]
    folder = make_run(tmp_path / "a", made, profile=f"{HOSTILE} $\\frac$")  # no formula in a figure either
    found = tags_of(page_of(folder).replace("<!doctype html>", ""))
    assert not found.names & {"script", "iframe"}
    assert not any(name.startswith("on") for name in found.attributes)


def test_the_trajectory_shown_is_the_median_one(tmp_path):
    made = [trajectory("up", "rl", score, k=k) for k, score in enumerate((0.51, 0.8765, 0.6543))]
    page = page_of(make_run(tmp_path / "a", made))
    assert "report score 0.5 → 0.6543" in page


def test_no_run_folder_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(RunError, match="mlagent run"):
        write_report(tmp_path / "nothing")


def test_unscored_trajectories_are_said(tmp_path):
    made = [*rows(), trajectory("up", "rl", None, k=9)]
    found = first_screen(read_run_folder(make_run(tmp_path / "a", made)))
    assert any(note.startswith("1 of ") for note in found.caveats)
    assert set(SCALES) == {"up", "down", "far"}


def test_an_agent_that_was_evaluated_later_is_in_the_page(tmp_path):
    folder = make_run(tmp_path / "a")
    overall = pd.read_csv(folder / "04_evaluation" / "overall.csv")
    later = overall[overall["policy"] == "rl"].assign(policy="a-chat-model")
    (folder / "agents").mkdir()
    pd.concat([overall, later]).to_csv(folder / "agents" / "overall.csv", index=False)
    assert "a-chat-model" in set(read_run_folder(folder).tables["overall"]["policy"])
    assert "a-chat-model" in write_report(folder).read_text(encoding="utf-8")
