"""Figures: every one draws, has equal bytes on every call, and comes back from its CSV alone."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib
import pandas as pd
import pytest
from synthetic_run import figure_tables

from mlagent_lib.core.errors import RunError
from mlagent_lib.results.figures import FIGURES, RUN_FIGURES, put, redraw_all, render
from mlagent_lib.results.style import LOOKS, figure_files, number


@pytest.fixture(scope="module")
def tables():
    return figure_tables((0, 1))


@pytest.fixture(scope="module")
def drawn(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for name, df in tables.items():
        render(name, df, folder)
    return folder


@pytest.mark.parametrize("name", RUN_FIGURES)
def test_figure_is_written_whole(drawn, name):
    assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    root = ET.fromstring((drawn / f"{name}.svg").read_bytes())
    assert root.tag.endswith("svg")
    assert b"<dc:date>" not in (drawn / f"{name}.svg").read_bytes()


def test_redrawing_gives_the_same_bytes(drawn):
    assert redraw_all(drawn, check=True) == []


def test_redrawing_gives_the_same_bytes_in_another_process_with_other_settings(drawn, repository):
    code = (
        "import matplotlib\n"
        "matplotlib.rcParams.update({'font.size': 30, 'svg.hashsalt': 'x'})\n"
        "from mlagent_lib.results.figures import redraw_all\n"
        f"print(redraw_all({str(drawn)!r}, check=True, only=['idea_map', 'before_after']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert done.stdout.strip() == "[]"


def test_figures_leave_the_readers_settings_alone(tables):
    before = dict(matplotlib.rcParams)
    FIGURES["reward_shape"](tables["reward_shape"])
    assert dict(matplotlib.rcParams) == before


def test_a_csv_comes_back_exactly(drawn, tables):
    pd.testing.assert_frame_equal(
        pd.read_csv(drawn / "gap_by_policy.csv"), tables["gap_by_policy"], check_exact=True, check_dtype=False
    )


def test_check_reports_a_changed_number_and_writes_nothing(drawn, tmp_path):
    for path in drawn.glob("minutes.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(tmp_path / "minutes.csv")
    table.loc[0, "seconds"] += 60
    table.to_csv(tmp_path / "minutes.csv", index=False)
    old = (tmp_path / "minutes.svg").read_bytes()
    assert redraw_all(tmp_path, check=True, only=["minutes"]) == ["minutes.png", "minutes.svg"]
    assert (tmp_path / "minutes.svg").read_bytes() == old
    assert redraw_all(tmp_path, only=["minutes"]) == ["minutes.png", "minutes.svg"]
    assert redraw_all(tmp_path, check=True, only=["minutes"]) == []


def test_a_missing_csv_names_the_command_that_makes_it(drawn, tmp_path):
    for path in drawn.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "minutes.csv").unlink()
    with pytest.raises(RunError, match=r"lacks minutes\.csv.*mlagent run"):
        redraw_all(tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def test_a_damaged_csv_is_named(drawn, tmp_path):
    (tmp_path / "minutes.csv").write_text("stage,part\na,b\n")
    with pytest.raises(RunError, match=r"minutes\.csv cannot be drawn.*seconds"):
        redraw_all(tmp_path, only=["minutes"])


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_without_its_columns_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"figure '{name}' lacks the columns"):
        FIGURES[name](pd.DataFrame({"other": [1]}))


def test_unknown_figure_lists_the_known_ones(tables, tmp_path):
    with pytest.raises(ValueError, match="choose one of learning_curve"):
        render("fig9", tables["minutes"], tmp_path)


def test_a_policy_without_a_look_of_its_own_still_draws(tables):
    table = tables["gap_by_policy"].replace({"policy": {"rl": "gpt-4o-mini"}})
    figure = FIGURES["gap_by_policy"](table)
    assert "gpt-4o-mini" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_one_seed_one_trajectory_draws_without_an_interval(tables):
    table = tables["gap_by_policy"].assign(gap_low=float("nan"), gap_high=float("nan"))
    assert FIGURES["gap_by_policy"](table)


def test_footer_says_n_interval_profile_and_hardware(tables):
    figure = FIGURES["gap_by_policy"](tables["gap_by_policy"])
    note = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    for word in ("n = ", "95 % bootstrap interval", "2 seeds", "profile: smoke", "hardware: 2 CPU cores"):
        assert word in note


def test_a_figure_that_has_no_name_here_makes_its_folder(tables, tmp_path):
    df = tables["reward_shape"]
    names = put(tmp_path / "new", figure_files("shape", FIGURES["reward_shape"](df), df))
    assert names == ["shape.csv", "shape.png", "shape.svg"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names


def test_policies_differ_in_marker_as_well_as_in_colour():
    policies = [LOOKS[name] for name in ("starter", "random-ideas", "expert", "base", "sft", "rl")]
    assert len({look[1] for look in policies}) == len({look[2] for look in policies}) == len(policies)
    outcomes = [LOOKS[name] for name in ("edited", "neutral", "corner", "error", "invalid")]
    assert len({look[3] for look in outcomes}) == len(outcomes)


def test_number_has_no_negative_zero():
    assert [number(v) for v in (-0.004, 0.0, -1.5)] == ["0.00", "0.00", "\u22121.50"]


def test_drawing_needs_neither_torch_nor_pyplot(repository):
    code = (
        "import sys, mlagent_lib.results.figures, mlagent_lib.results.report\n"
        "heavy = ('torch', 'transformers', 'matplotlib.pyplot', 'IPython')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert done.stdout.strip() == "[]"
