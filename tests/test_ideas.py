"""Ideas: where they come from, which are kept, what a trajectory is given, and how far apart they lie."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fake_openai import FakeOpenAI

from mlagent_lib.agents.embeddings import (
    embed,
    pairwise_distances,
    project,
    select_farthest_average,
    select_farthest_point,
)
from mlagent_lib.agents.ideas import (
    AXES,
    Idea,
    candidate_ideas,
    draw_ideas,
    idea_prompt,
    parse_ideas,
    read_ideas,
    select_v1,
    select_v2,
)
from mlagent_lib.agents.server.endpoint import ChatEndpoint
from mlagent_lib.core.errors import EndpointError, MlagentError, TaskError
from mlagent_lib.core.seeding import rng
from mlagent_lib.results.steps import spread_table
from mlagent_lib.tasks.pocket.catalogue import KINDS, MODALITIES

# Five points at 0, 1, 4, 9 and 10 on a line.
LINE = np.array([[0.0], [1.0], [4.0], [9.0], [10.0]])


def a_task(**changes):
    return SimpleNamespace(
        **{
            "name": "digits",
            "starter": "train.py",
            "ideas": (),
            "split": "held-in",
            "modality": "image",
            "kind": "label",
            "research_problem": "Raise the accuracy.",
            "env_files": lambda: {"train.py": b"print('starter')\n"},
        }
        | changes
    )


def angles(*degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_pocket_task_has_a_hundred_distinct_ideas(modality, kind):
    ideas = candidate_ideas(a_task(modality=modality, kind=kind))
    assert len(ideas) >= 100
    assert len({i.key for i in ideas}) == len({i.text.lower() for i in ideas}) == len(ideas)
    counts = Counter(i.axis for i in ideas)
    assert set(counts) == set(AXES) and min(counts.values()) >= 20


def test_a_task_outside_the_suite_needs_an_expert():
    with pytest.raises(TaskError, match="openai:<model>@<url>"):
        candidate_ideas(a_task(split="other"))
    with pytest.raises(TaskError, match="ideas for image / label"):
        candidate_ideas(a_task(), minimum=10_000)


def test_ideas_from_an_endpoint_through_the_same_function():
    """Each prompt gets half of what it asks for, one repetition and some chatter; a second round fills up."""

    def answer(messages):
        text = messages[-1]["content"]
        axis = next(a for a in AXES if f"only the {a}" in text)
        start = text.count("\n- ") * 100
        lines = [f"{i}. For the {axis} try variant number {start + i}." for i in range(1, 21)]
        return "Here you go, enjoy it all:\n[advice]\n" + "\n".join([*lines, lines[0], "```"])

    with FakeOpenAI(answer) as server:
        ideas = candidate_ideas(a_task(split="other"), generate=ChatEndpoint("m", server.base_url).generate)
        assert len(server.requests) == 6
        prompt = server.requests[0]["body"]["messages"][0]["content"]
    assert Counter(i.axis for i in ideas) == dict.fromkeys(AXES, 40)
    assert "Raise the accuracy." in prompt and "print('starter')" in prompt and "Give 40 different" in prompt
    assert all(i.key.startswith(i.axis + "/") for i in ideas) and len({i.key for i in ideas}) == 120


def test_an_expert_that_repeats_itself_is_named():
    calls = []
    with pytest.raises(EndpointError, match=r"gave 1 distinct ideas for 'digits' in 4 rounds per axis, 100"):
        candidate_ideas(
            a_task(), generate=lambda prompt: calls.append(prompt) or "[advice]\nUse more trees please."
        )
    assert len(calls) == 12 and "do not repeat:\n- Use more trees please." in calls[1]


def test_a_list_of_ideas_is_read_line_by_line(tmp_path):
    path = tmp_path / "ideas.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# mine\r\n\r\n- Data:  Fill gaps\twith the median.\r\n2. model: Use more trees.\r\n"
        b"Learning: Stop early.\nUse a forest: 500 trees.\nuse MORE trees\n"
    )
    assert read_ideas(path) == (
        ("data", "Fill gaps with the median."),
        ("model", "Use more trees."),
        ("learning", "Stop early."),
        ("model", "Use a forest: 500 trees."),
    )
    ideas = candidate_ideas(
        a_task(split="other", ideas=read_ideas(path))
    )  # few are enough, and none is added
    assert [idea.axis for idea in ideas] == ["data", "model", "learning", "model"]
    for content, words in ((b"# nothing\n\n", "is empty"), (b"\xff\xfe", "UnicodeDecodeError")):
        path.write_bytes(content)
        with pytest.raises(TaskError, match=words):
            read_ideas(path)
    with pytest.raises(TaskError, match="FileNotFoundError.*one idea a line"):
        read_ideas(tmp_path / "none.txt")


def test_the_cure_for_missing_ideas_names_parameters_that_exist():
    from mlagent_lib.run.notebooks import declared_parameters, notebooks_folder

    with pytest.raises(TaskError) as error:
        candidate_ideas(a_task(split="other"))
    named = re.findall(r"-p (\w+)=", error.value.cure)
    assert named == ["ideas", "expert"] and "--expert" not in error.value.cure
    assert set(named) <= set(declared_parameters(notebooks_folder() / "01_collection.ipynb"))


def test_prompt_of_a_foreign_task_shows_its_own_script():
    task = a_task(env_files=lambda: {"notes.txt": b"no", "main.py": b"x = 1"})
    assert "# Script main.py\n```python\nx = 1\n```" in idea_prompt(task, "model", 5)
    assert "Give 5 different" in idea_prompt(a_task(env_files=dict), "data", 5)


@pytest.mark.parametrize(
    ("reply", "ideas"),
    [
        ("", []),
        ("[advice]", []),
        ("Scale all the columns.", ["Scale all the columns."]),  # no flag
        ("[advice] plan\n[advice]\n* Use a ridge model.", ["Use a ridge model."]),  # the last flag counts
        (
            "1) Use a ridge model\n(2) Use a lasso model\n3: Add more trees\n• Tune the depth",
            ["Use a ridge model", "Use a lasso model", "Add more trees", "Tune the depth"],
        ),
        ("Use C=0.1 for it\n- 5 folds are better", ["Use C=0.1 for it", "5 folds are better"]),
        ("## Ideas for the data\nHere are my ideas:\nok\n---\n```python", []),
        ("Use\ta  \x1b[31mridge\x00 model", ["Use a [31mridge model"]),
        ("word " * 61, []),
        ("1 2 3 4", []),
        (None.__class__.__name__ * 100_000, []),
    ],
)
def test_parse_ideas_is_total(reply, ideas):
    assert parse_ideas(reply) == ideas


def test_farthest_average_by_hand():
    # Averages: 0 -> 24/4, 1 -> 21/4, 4 -> 18/4, 9 -> 23/4 (9+8+5+1), 10 -> 26/4.
    assert select_farthest_average(LINE, 5, metric="euclidean") == (4, 0, 3, 1, 2)
    # At 0, 90 and 180 degrees the averages of 1 - cos are 1.5, 1 and 1.5.
    assert select_farthest_average(angles(0, 90, 180), 2) == (0, 2)
    # Two outliers side by side: version 1 takes both, version 2 does not.
    crowd = angles(0, 1, 2, 3, 170, 171)
    assert set(select_farthest_average(crowd, 2)) == {4, 5}
    assert set(select_farthest_point(crowd, 2, first=0)) == {0, 5}


def test_farthest_point_by_hand():
    # From 0: 10 is farthest; then 4 is 4 away from a chosen one, 1 and 9 are 1 away.
    assert select_farthest_point(LINE, 5, first=0, metric="euclidean") == (0, 4, 2, 1, 3)
    assert select_farthest_point(LINE, 2, first=2, metric="euclidean") == (2, 4)
    drawn = {select_farthest_point(LINE, 1, rng=np.random.default_rng(s))[0] for s in range(40)}
    assert drawn == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range(k):
    for call in (lambda: select_farthest_average(LINE, k), lambda: select_farthest_point(LINE, k, first=0)):
        with pytest.raises(ValueError, match=r"between 1 and the number of ideas \(5\)"):
            call()


def test_selection_does_not_take_one_idea_twice_when_texts_repeat():
    same = np.ones((4, 3))
    assert sorted(select_farthest_point(same, 4, first=2)) == [0, 1, 2, 3]
    assert select_farthest_average(same, 3) == (0, 1, 2)


def test_bad_arguments():
    with pytest.raises(ValueError, match="give first or rng"):
        select_farthest_point(LINE, 2)
    with pytest.raises(ValueError, match="metric 'city' is unknown"):
        select_farthest_average(LINE, 2, metric="city")
    with pytest.raises(ValueError, match="finite array"):
        select_farthest_average(np.array([[np.nan]]), 1)


def some_ideas(per_axis=6):
    return [Idea(f"{a}/{i}", a, f"Change number {i} of the {a} now") for a in AXES for i in range(per_axis)]


def test_pools_and_draws_of_version_2():
    ideas = some_ideas()
    vectors = embed([i.text for i in ideas])
    pools = select_v2(ideas, vectors, np.random.default_rng(0), k=4)
    assert {axis: len(pool) for axis, pool in pools.items()} == dict.fromkeys(AXES, 4)
    assert all(idea.axis == axis for axis, pool in pools.items() for idea in pool)
    again = select_v2(ideas, vectors, np.random.default_rng(0), k=4)
    assert again == pools
    generator, sizes, orders = np.random.default_rng(1), Counter(), set()
    for _ in range(3000):
        drawn = draw_ideas(pools, generator)
        assert len({i.axis for i in drawn}) == len(drawn)
        sizes[len(drawn)] += 1
        orders.add(tuple(i.axis for i in drawn))
    assert all(abs(sizes[k] / 3000 - 1 / 3) < 0.04 for k in (1, 2, 3))  # 4.6 standard errors
    assert len(orders) == 3 + 6 + 6  # every ordered choice of 1, 2 and 3 axes


def test_pool_and_draws_of_version_1():
    ideas = some_ideas()
    pool = select_v1(ideas, embed([i.text for i in ideas]))
    assert len(set(pool)) == 10
    generator = np.random.default_rng(1)
    draws = [draw_ideas(pool, generator) for _ in range(900)]
    assert {len(d) for d in draws} == {1, 2, 3} and all(len(set(d)) == len(d) for d in draws)
    assert {i for d in draws for i in d} == set(pool)


def test_draws_from_small_pools():
    one = Idea("a", "data", "Scale it all.")
    assert draw_ideas([one], np.random.default_rng(0)) == (one,)
    assert draw_ideas({"data": [one], "model": []}, np.random.default_rng(0)) == (one,)
    for empty in ([], {}, {"data": []}):
        with pytest.raises(ValueError, match="select some first"):
            draw_ideas(empty, np.random.default_rng(0))


def test_tfidf_sees_what_is_alike():
    texts = ["Use 100 trees", "Use 200 trees", "Scale the columns", "", "?!", "Use 100 trees"]
    made = embed(texts)
    distances = pairwise_distances(made)
    assert np.isfinite(made).all()
    assert distances[0, 5] == 0 and 0 < distances[0, 1] < distances[0, 2]
    assert distances[3, 0] == 1.0
    np.testing.assert_allclose(distances, distances.T)
    assert embed(["!", "?"]).shape[0] == 2


def test_there_must_be_a_text():
    with pytest.raises(MlagentError, match="no text to embed"):
        embed([])


def test_spread_by_hand():
    distances = pairwise_distances(LINE, metric="euclidean")
    found = spread_table(distances, {"thirds": [0, 2, 4], "all": range(5)}, draws=0).set_index("selection")
    assert found["mean_distance"]["thirds"] == pytest.approx((4 + 10 + 6) / 3)
    assert found["coverage"].to_dict() == {"thirds": pytest.approx((1 + 1) / 5), "all": 0.0}


def test_projection_keeps_plane_distances_and_its_sign():
    points = np.random.default_rng(0).normal(size=(12, 2))
    turned = points @ np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0][:2]
    coords, shares = project(turned)
    np.testing.assert_allclose(
        pairwise_distances(coords, metric="euclidean"),
        pairwise_distances(points, metric="euclidean"),
        atol=1e-6,
    )
    assert sum(shares) == pytest.approx(1.0) and shares[0] >= shares[1]
    assert all(coords[np.abs(coords[:, j]).argmax(), j] > 0 for j in (0, 1))
    assert project(np.ones((1, 3)))[0].tolist() == [[0.0, 0.0]]


def test_far_apart_ideas_spread_more():
    ideas = candidate_ideas(a_task())
    index = {idea.key: place for place, idea in enumerate(ideas)}
    vectors = embed([idea.text for idea in ideas])
    pools = select_v2(ideas, vectors, rng(0, "ideas", "report-v2"))
    assert {axis: len(pool) for axis, pool in pools.items()} == dict.fromkeys(AXES, 10)
    second = [index[idea.key] for pool in pools.values() for idea in pool]
    first = [index[idea.key] for idea in select_v1(ideas, vectors)]
    distances = pairwise_distances(vectors)
    found = spread_table(distances, {"v2": second}, draws=100)
    v2, chance = found.iloc[0], found.iloc[1:]
    assert v2["mean_distance"] > chance["mean_distance"].quantile(0.975)
    assert v2["coverage"] < chance["coverage"].quantile(0.025)
    found = spread_table(distances, {"v1": first}, draws=100)
    assert len(first) == 10 and found["mean_distance"][0] > found["mean_distance"][1:].mean()
    assert spread_table(distances, {"v1": first}, draws=100).equals(found)
