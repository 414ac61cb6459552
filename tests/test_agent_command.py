"""``mlagent agent``: one trajectory live, an evaluation beside a run's own policies, and what it cost."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from fake_openai import SAYS, FakeOpenAI
from synthetic_run import SCALES, make_run
from tiny_task import CARD, NAME, FakeRunner, edit, final, neighbours, write_task

from mlagent_lib import cli
from mlagent_lib.agents.server.accounting import Call
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.core.artifacts import read_manifest, stage_is_valid
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.results.evaluated_agents import agent_stages, main_tables, run_scales, with_agents
from mlagent_lib.run import agent as acting
from mlagent_lib.run import lab as labs
from mlagent_lib.run.terminal import LiveView, ProgressLine, wants_colour

KEY = "sk-secret-0123456789abcdef"
POCKET = "pocket_model"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in a folder of the test's own, with the tiny task and a runner that runs nothing."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "tasks")
    monkeypatch.setattr(acting, "Runner", lambda workers: FakeRunner())
    monkeypatch.setattr(labs, "Runner", lambda workers: FakeRunner())
    monkeypatch.setattr(acting, "parse_endpoint", partial(parse_endpoint, max_retries=1, backoff_s=0.01))
    return tmp_path


TASK = f"tasks/{NAME}"


def agent(capsys, *words) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of the command."""
    code = cli.main(["agent", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def stepwise(messages) -> str:
    """Answer by how far the agent is: a better edit, a worse one, the end."""
    text = messages[-1]["content"]
    return neighbours(12) if "Step 1 " in text else neighbours(16) if "Step 2 " in text else final()


def spec(server, options="") -> str:
    return f"openai:fake@{server.base_url}{options and '#' + options}"


# one trajectory, live


def test_a_trajectory_is_shown_step_by_step(capsys):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
    script = ["malformed", "unknown-action", "429"]
    words = ["--task", TASK, "--coder", "rules", "--steps", 3, "--save", "rows.jsonl"]
    prices = ["--price-in", 2, "--price-out", 8, "--price-cached", 0.5]
    with FakeOpenAI(stepwise, script=script, usage=usage) as server:
        code, out, _ = agent(capsys, "--policy", spec(server), *words, *prices)
        again, second, _ = agent(capsys, "--policy", spec(server), *words)
        assert len(server.requests) == 6  # five replies, one of them at the second try; then none
    assert (code, again) == (0, 0) and "\x1b" not in out
    assert out.startswith(
        f"{NAME}: mae, lower is better\npolicy openai:fake · coder rules · seed 0 · isolation fake"
    )
    assert "feedback score of the starter 5, best known 0" in out
    assert "step 1 of at most 3 ─" in out and "  thought  none\n" in out
    assert "  edit     Use 12 nearest neighbours." in out
    assert (
        "    -model = KNeighborsRegressor(n_neighbors=40)\n    +model = KNeighborsRegressor(n_neighbors=12)"
        in out
    )
    joined = " ".join(out.split())  # long lines are wrapped
    assert "server 3,000 tokens in, 300 out, 2 of 3 replies broke the format" in joined
    assert "(missing-field, unknown-action), 1 retry score" in joined
    assert "  score    5 → 1.5 better · reward 1.000 · edited (scored)" in out
    assert "  score    1.5 → 2 worse · reward 0.000 · edited (scored)" in out
    assert "  path     5 → 1.5 → 2 → neutral" in out
    # an error of 5 that fell to 2: 60 % less, and 3 of the 5 to the best known score
    assert "feedback score 5 → 2, gain 60.0 %, gap closed 0.600" in out
    assert "stopped: final-answer, after 3 steps" in out
    # five replies of 600 fresh, 400 cached and 100 written tokens: 5 * (1200 + 200 + 800) millionths
    assert "5 calls (0 hits, 0 failed), 6 requests (1 retries), 2 asked again; 5,000 tokens in" in out
    assert "cost 0.011 (in the unit of your prices)" in out
    assert "5 calls (5 hits, 0 failed), 0 requests" in second and "known already" in second
    assert "cost unknown: no price was given" in second
    rows, _ = read_jsonl("rows.jsonl")
    assert [row["id"] for row in rows] == [f"fake/{NAME}/0"] * 2
    assert [step["reply"] for step in rows[0]["steps"]] == [step["reply"] for step in rows[1]["steps"]]


def test_policies_without_a_model(capsys):
    for policy in ("starter", "random-ideas", "scripted"):
        code, out, _ = agent(capsys, "--policy", policy, "--task", TASK, "--coder", "rules", "--steps", 2)
        assert code == 0 and f"policy {policy} · coder rules" in out and "\nend ─" in out
        assert "calls" not in out
    assert not Path("runs").exists()  # one trajectory leaves nothing behind


def test_other_numbers_and_seeds_are_other_trajectories(capsys):
    def edits(*words):
        _, out, _ = agent(capsys, "--policy", "random-ideas", "--task", TASK, "--coder", "rules", *words)
        return [line for line in out.split("\n") if line.startswith("  edit ")]

    first = edits("--seed", 0)
    assert first == edits() and first != edits("--index", 1) != edits("--seed", 1) != first


def test_a_server_that_refuses_one_request_ends_the_trajectory_uncounted(capsys):
    with FakeOpenAI(stepwise, script=["ok", "400"]) as server:
        code, out, _ = agent(capsys, "--policy", spec(server), "--task", TASK, "--coder", "rules")
    assert code == 1 and "no reward · unscored (policy-server)" in out and "stopped: unscored" in out
    assert "not counted: a step could not be scored, through a failure of ours or of a server" in out


@pytest.mark.slow
def test_a_model_of_a_run_acts(capsys):
    """The real pocket model: base weights as policy and as coder."""
    code, out, _ = agent(capsys, "--policy", "base", "--task", TASK, "--steps", 1, "--profile", "smoke")
    assert code == 0 and "policy base · coder base" in out and "stopped: " in out


# what is refused, each in one line


def adapter(folder: Path, base: str = POCKET) -> Path:
    """Write what looks like an adapter of a base model."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": f"/elsewhere/{base}"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", TASK], "no policy was given"),
        (["--policy", "starter", "--task", TASK, "--k", 3], "--k goes with --tasks"),
        (["--policy", "starter", "--task", TASK, "--out", "runs/x"], "--out goes with --tasks"),
        (["--policy", "starter", "--tasks", TASK], "--tasks needs a run to write into"),
        (["--policy", "starter", "--tasks", TASK, "--out", "r", "--save", "f"], "--save goes with --task"),
        (["--policy", "best", "--task", TASK], "policy 'best' is unknown, and no folder"),
        (["--policy", "tasks", "--task", TASK], "tasks holds neither an adapter"),
        (["--policy", "rl", "--task", TASK], "the run None has no finished adapter 03_grpo/adapter"),
        (["--policy", "sft", "--task", TASK, "--run", "runs/no"], "the run runs/no has no finished adapter"),
        (["--policy", "starter", "--task", "no-such-task"], "no-such-task"),
        (["--policy", "starter", "--task", TASK, "--profile", "lapto"], "profile 'lapto' is unknown"),
        (["--policy", "starter", "--task", TASK, "--coder", "rule"], "'rule' is not the name of an endpoint"),
        (["--policy", "openai:", "--task", TASK], "is not the name of an endpoint"),
        (["--policy", "openai:m#speed=1", "--task", TASK], "option 'speed' of an endpoint is unknown"),
        (["--policy", f"openai:{KEY}", "--task", TASK], "holds the key in $OPENAI_API_KEY"),
        (["--policy", "starter", "--task", TASK, "--coder", f"openai:{KEY}"], "holds the key in $OPENAI"),
        (["--policy", "openai:m", "--task", TASK, "--price-in", 1], "give both --price-in and --price-out"),
        (["--policy", "openai:m", "--task", TASK, "--price-cached", 1], "give both --price-in and --price-"),
        (["--policy", "starter", "--task", TASK, "--price-in", 1, "--price-out", 1], "policy is no server's"),
        (["--policy", "openai:m", "--task", TASK, "--price-in", -1, "--price-out", 1], "price input is -1"),
        (["--policy", "openai:m", "--task", TASK, "--prices", "no.yaml"], "there is no price file no.yaml"),
        (["--policy", "starter", "--tasks", TASK, "--out", "r", "--name", "rl"], "cannot be called 'rl'"),
        (["--policy", "starter", "--tasks", TASK, "--out", "r", "--name", "/"], "cannot be called '/'"),
        (["--costs", "tasks"], "no prices were given"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_with_a_cure(capsys, words, told):
    code, out, err = agent(capsys, *words)
    assert code == 2 and told in err and "What to do: " in err and err.count("\n") == 1
    assert KEY not in out + err


def test_two_prices_for_one_model(capsys):
    Path("prices.yaml").write_text("models: {m: {input: 1, output: 1}}")
    words = ["--policy", "openai:m", "--task", TASK, "--coder", "rules", "--prices", "prices.yaml"]
    code, _, err = agent(capsys, *words, "--price-in", 1, "--price-out", 1)
    assert code == 2 and "the policy has a price in the file of --prices" in err


@pytest.mark.parametrize("words", [["--k", "0"], ["--steps", "many"]])
def test_counts_are_whole_and_positive(capsys, words):
    with pytest.raises(SystemExit) as caught:
        agent(capsys, "--policy", "starter", "--task", TASK, *words)
    assert caught.value.code == 2 and "is not a whole number of 1 or more" in capsys.readouterr().err


# which adapter, which profile


def test_adapters_by_name_and_by_folder(tmp_path):
    run = tmp_path / "runs" / "laptop-seed0"
    rl = adapter(run / "03_grpo" / "adapter")
    assert acting.find_adapter("rl", run) == acting.find_adapter(str(run), None) == rl
    assert acting.find_adapter(str(rl), None) == rl and acting.find_adapter("base", None) is None
    smoke = get_profile("smoke")
    chosen = acting.agent_spec(str(rl), smoke)
    assert (chosen.name, chosen.kind, chosen.label) == (
        "agent-laptop-seed0-03_grpo",
        "local",
        "laptop-seed0-03_grpo",
    )
    assert len(chosen.params()["policy"]["adapter_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(chosen.params())
    assert acting.agent_spec("rl", smoke, run=run).name == "agent-rl"
    assert acting.agent_spec("base", smoke).adapter is None
    other = adapter(tmp_path / "other", base="Qwen2.5-7B")
    with pytest.raises(RunError, match="was trained on 'qwen2.5-7b', and the profile loads 'pocket_model'"):
        acting.agent_spec(str(other), smoke)


def test_the_profile_is_the_one_that_made_the_adapter(tmp_path):
    run = tmp_path / "run"
    made = adapter(run / "03_grpo" / "adapter")
    assert acting.profile_of_policy(str(made), None, None).name == "laptop"
    (run / "run.json").write_text('{"profile": "smoke", "seed": 3}')
    assert acting.profile_of_policy("base", run, None).name == "smoke"
    assert acting.profile_of_policy("openai:m", run, "laptop").name == "laptop"
    recorded = {**asdict(get_profile("smoke")), "model": "some/model", "reply_format": "no-thought"}
    (run / "03_grpo" / "manifest.json").write_text(json.dumps({"profile": recorded}))
    found = acting.profile_of_policy(str(run), None, None)
    assert (found.name, found.model, found.reply_format) == ("smoke", "some/model", "no-thought")


def test_names_and_what_is_written_down_of_an_endpoint():
    chosen = acting.agent_spec(
        "openai:org/qwen2.5:7b@http://h/v1?api-key=topsecret123#temperature=0", get_profile("smoke"),
        coder="openai:coder@http://h/v1",
    )  # fmt: skip
    assert (chosen.name, chosen.coder, chosen.coder_label) == ("org-qwen2.5-7b", "endpoint", "openai:coder")
    params = chosen.params()
    assert params["policy"]["url"] == "http://h/v1/chat/completions" and "topsecret" not in str(params)
    assert params["policy"]["sampling"]["temperature"] == 0.0
    assert params["coder"]["sampling"]["max_tokens"] == 4000
    with pytest.raises(ProfileError, match="cannot be called 'expert'"):
        acting.agent_spec("starter", get_profile("smoke"), coder="rules", name="expert")


# an evaluation


def evaluate(capsys, server, *words, options="concurrency=3"):
    given = ["--policy", spec(server, options), "--tasks", TASK, "--coder", "rules", "--out", "runs/mine"]
    return agent(capsys, *given, "--k", 3, "--steps", 3, *words)


def test_a_run_may_lie_in_a_folder_of_any_name_and_its_seed_is_checked(tmp_path):
    lab = acting.open_run(tmp_path / "smoke (copy 2)", "smoke", 3, policy="starter")
    assert (lab.run_dir, lab.seed, lab.profile.name) == (tmp_path / "smoke (copy 2)", 3, "smoke")
    lab.close()
    with pytest.raises(ProfileError, match="seed is -1"):
        acting.open_run(tmp_path / "new", "smoke", -1, policy="starter")


def test_an_agent_lands_in_the_tables(capsys):
    with FakeOpenAI(stepwise, usage={"prompt_tokens": 100, "completion_tokens": 10}) as server:
        code, out, err = evaluate(capsys, server, "--price-in", 1, "--price-out", 2)
        assert code == 0, err
        assert len(server.requests) == 9
        code, again, _ = evaluate(capsys, server)
        assert code == 0 and "finished before, kept" in again and len(server.requests) == 9
    folder = Path("runs/mine/agents/fake")
    assert stage_is_valid(folder) and "3 trajectories, 0 unscored" in out
    # nine calls of 100 and 10 tokens at 1 and 2: 9 * 120 millionths
    assert "cost 0.00108" in out and "cost 0.00108" not in again
    assert "3 of 3 trajectories, 9 of at most 9 steps" in err and "9 requests (0 retries)" in err
    rows = with_agents("runs/mine")
    assert [row["id"] for row in rows] == [f"fake/{NAME}/{index}" for index in range(3)]
    table = pd.read_csv("runs/mine/agents/tasks.csv")
    # report scores: the starter's 10, the agent's 16 / 4 = 4: an error that fell by 60 %
    assert table[["policy", "n", "avg_at_k", "gain_pct", "gap_closed"]].values.tolist() == [
        ["fake", 3, 4.0, 60.0, 0.6]
    ]
    assert "* fake                     held-in     0.600" in out
    (line,) = pd.read_csv("runs/mine/agents/agents.csv").to_dict("records")
    assert (line["policy"], line["coder"], line["k"], line["steps"]) == ("openai:fake", "rules", 3, 3)
    assert (line["calls"], line["cost"], line["invalid_steps"]) == (9, pytest.approx(0.00108), 0.0)
    with open(folder / "costs.csv", newline="") as handle:
        costs = list(csv.DictReader(handle))
    assert [(row["scope"], row["trajectory"], row["cost"]) for row in costs] == [
        *(("trajectory", f"fake/{NAME}/{index}", "0.00036") for index in range(3)), ("run", "", "0.00108"),
    ]  # fmt: skip
    text = "".join(path.read_text() for path in Path("runs").rglob("*") if path.is_file())
    assert KEY not in text


def test_one_trajectory_a_task_has_no_interval(capsys):
    with FakeOpenAI(stepwise) as server:
        code, out, _ = evaluate(capsys, server, "--k", 1)
    assert code == 0 and "held-in     0.600 [no interval]" in out and "nan" not in out


def test_another_run_knows_the_replies_and_says_so(capsys):
    with FakeOpenAI(stepwise) as server:
        evaluate(capsys, server)
        code, out, err = evaluate(capsys, server, "--out", "runs/other")
        assert code == 0 and len(server.requests) == 9
    assert "9 calls (9 hits, 0 failed), 0 requests" in out and "9 known" in err
    first, second = (
        read_jsonl(f"runs/{name}/agents/fake/trajectories.jsonl")[0] for name in ("mine", "other")
    )
    assert [step["reply"] for row in first for step in row["steps"]] == [
        step["reply"] for row in second for step in row["steps"]
    ]


def test_an_evaluation_that_was_stopped_goes_on_and_pays_nothing_twice(capsys):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    prices = ["--price-in", 1, "--price-out", 2]
    with FakeOpenAI(stepwise, script=["ok"] * 5, then="500", usage=usage) as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        code, _, err = evaluate(capsys, server, *prices, options="")
        assert code == 2 and "HTTP 500" in err
    folder = Path("runs/mine/agents/fake")
    assert not (folder / "manifest.json").exists() and agent_stages("runs/mine") == []
    with FakeOpenAI(stepwise, usage=usage, port=port) as server:
        code, out, _ = evaluate(capsys, server, *prices, options="")
        assert code == 0 and len(server.requests) == 4
    # nine replies are paid once; the one that failed brought no tokens
    assert "cost 0.00108" in out and read_manifest(folder)["attempts"] == 2
    assert "9 calls (0 hits, 0 failed), 11 requests (1 retries)" in out


def test_a_coder_behind_a_server_is_billed_to_the_trajectories(capsys):
    script = write_task(Path("other")).env_files()["train.py"].decode()

    def says(messages):
        if "Edit instruction" in messages[-1]["content"]:
            return f"```python\n{script.replace('n_neighbors=40', 'n_neighbors=12')}\n```"
        return edit("Make it good.") if "Step 1 " in messages[-1]["content"] else final()

    Path("prices.yaml").write_text(
        "currency: credits\nmodels:\n  fake: {input: 1, output: 1}\n  writer: {input: 10, output: 20}\n"
    )
    with FakeOpenAI(says, usage={"prompt_tokens": 1000, "completion_tokens": 500}) as server:
        coder = f"openai:writer@{server.base_url}"
        code, out, _ = agent(
            capsys, "--policy", spec(server), "--tasks", TASK, "--coder", coder, "--out", "runs/mine",
            "--k", 2, "--steps", 2, "--prices", "prices.yaml",
        )  # fmt: skip
        asked = [seen["body"] for seen in server.requests if seen["body"]["model"] == "writer"]
    assert code == 0 and len(asked) == 1 and asked[0]["max_tokens"] == 4000
    # four replies of 1500 tokens at 1; one edit of 1000 at 10 and 500 at 20, which the second one met again
    with open("runs/mine/agents/fake/costs.csv", newline="") as handle:
        costs = {(row["scope"], row["trajectory"][-1:], row["role"]): row for row in csv.DictReader(handle)}
    assert costs["trajectory", "0", "policy"]["cost"] == costs["trajectory", "1", "policy"]["cost"] == "0.003"
    assert costs["trajectory", "0", "coder"]["cost"] == "0.02"
    second = costs["trajectory", "1", "coder"]
    assert (second["cost"], second["cost_without_hits"], second["hits"]) == ("0", "0.02", "1")
    assert "cost 0.026 credits" in out
    Path("prices.yaml").write_text("models: {fake: {input: 0, output: 2}, writer: {input: 0, output: 0}}")
    code, out, _ = agent(capsys, "--costs", "runs/mine", "--prices", "prices.yaml")
    assert code == 0 and "cost 0.004" in out  # four replies of 500 written tokens at 2
    with open("runs/mine/costs.csv", newline="") as handle:
        first, *_, last = csv.DictReader(handle)
    assert (first["ledger"], first["trajectory"][-2:]) == ("agents/fake/calls.jsonl", "/0")
    assert (last["scope"], last["cost"]) == ("run", "0.004")


def test_costs_of_a_run_without_calls(capsys):
    Path("prices.yaml").write_text("models: {fake: {input: 0, output: 2}}")
    code, _, err = agent(capsys, "--costs", "tasks", "--prices", "prices.yaml")
    assert code == 2 and "tasks holds no ledger of calls" in err


def test_a_task_without_a_scale_is_refused_before_anything_is_asked(capsys, place):
    card = CARD.replace("best: {feedback: 0.0, report: 0.0}", "best: {feedback: 0.0, report: 10.0}")
    write_task(place / "tasks", card=card)
    with FakeOpenAI(stepwise) as server:
        code, _, err = evaluate(capsys, server)
        assert code == 2 and "cannot be evaluated: it has no starter's and better best score" in err
        assert server.requests == []


def test_other_conditions_are_another_evaluation(capsys):
    with FakeOpenAI(stepwise) as server:
        evaluate(capsys, server)
        code, _, _ = evaluate(capsys, server, "--k", 4)
        assert code == 0 and len(server.requests) == 12  # the first three trajectories are known
    assert [path.name for path in agent_stages("runs/mine")] == ["fake"] and len(
        with_agents("runs/mine")
    ) == 4
    assert Path("runs/mine/agents/fake.old-1").is_dir()


def test_broken_replies_are_counted_in_the_table(capsys):
    with FakeOpenAI(stepwise, script=["malformed"] * 5) as server:
        code, out, err = evaluate(capsys, server, "--k", 1, "--steps", 2, options="")
    assert code == 0 and "4 asked again" in out and "4 asked again" in err
    summary = read_manifest("runs/mine/agents/fake")["summary"]
    assert (summary["asked_again"], summary["invalid_steps"], summary["calls"]) == (4, 0.5, 6)
    (row,) = with_agents("runs/mine")
    assert row["steps"][0]["reply"] == SAYS["malformed"]


# beside the policies of a run


@pytest.fixture(scope="module")
def made_run(tmp_path_factory):
    """Return a finished run with an evaluated agent that did what ``rl`` did; not to be changed."""
    folder = make_run(tmp_path_factory.mktemp("made") / "laptop-seed0")
    own = [row for row in with_agents(folder) if row["source"] == "rl"]
    from mlagent_lib.core.artifacts import Stage

    tasks = {name: "digest" for name in SCALES}
    params = {
        "policy": {"label": "openai:m"},
        "coder": {"label": "base"},
        "tasks": tasks,
        "k": 3,
        "max_steps": 6,
    }
    with Stage(folder, "agents/m", params={"seed": 0, **params}) as stage:
        stage.write_json("scales.json", [vars(scale) for scale in SCALES.values()])
        for row in own:
            append_jsonl(stage.path("trajectories.jsonl"), {**row, "source": "m", "id": f"m-{row['id']}"})
    return folder


@pytest.fixture
def run(made_run, tmp_path):
    """Return a copy of it."""
    return Path(shutil.copytree(made_run, tmp_path / "runs" / "laptop-seed0"))


def test_rows_of_agents_stand_beside_those_of_the_run(run):
    sources = [row["source"] for row in with_agents(run)]
    assert sources.count("m") == sources.count("rl") == 9 and sources[-9:] == ["m"] * 9
    tables = main_tables(run)
    overall = tables["overall.csv"].set_index(["policy", "split"])
    assert overall.loc[("m", "held-in"), "gap_closed"] == overall.loc[("rl", "held-in"), "gap_closed"]
    assert set(tables["tasks.csv"]["policy"]) == {"starter", "base", "sft", "rl", "m"}
    assert run_scales(run) == SCALES
    assert tables["agents.csv"]["agent"].tolist() == ["m"]


def test_unfinished_agents_are_left_out_and_named(run, caplog):
    shutil.copytree(run / "agents" / "m", run / "agents" / "half")
    (run / "agents" / "half" / "manifest.json").unlink()
    shutil.copytree(run / "agents" / "m", run / "agents" / "m.old-1")
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in agent_stages(run)] == ["m"]
    assert "half is not finished, and left out" in caplog.text and "old-1" not in caplog.text


def test_a_changed_file_and_an_empty_run_are_errors(run, tmp_path):
    path = run / "agents" / "m" / "trajectories.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(RunError, match="agents/m/trajectories.jsonl is missing or has changed"):
        with_agents(run)
    with pytest.raises(RunError, match="neither a finished evaluation nor an evaluated agent"):
        with_agents(tmp_path / "nothing")


def test_a_task_that_changed_between_two_evaluations_is_an_error(run):
    path = run / "agents" / "m" / "scales.json"
    path.write_text(path.read_text().replace('"best": 0.9', '"best": 0.95'))
    with pytest.raises(RunError, match="task 'up' has two scales"):
        run_scales(run)


def test_a_run_keeps_its_profile_and_seed(capsys, run):
    words = ["--policy", "starter", "--tasks", TASK, "--out", run, "--coder", "rules"]
    code, _, err = agent(capsys, *words, "--seed", 3)
    assert code == 2 and "has seed 0, not 3" in err
    code, _, err = agent(capsys, *words, "--profile", "smoke")
    assert code == 2 and "has profile laptop, not smoke" in err


def test_unequal_terms_are_told(run, capsys):
    from mlagent_lib.results.evaluated_agents import unequal_conditions

    assert unequal_conditions(run) == []  # this made-up evaluation records no profile
    path = run / "04_evaluation" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"profile": asdict(get_profile("laptop"))}))
    assert unequal_conditions(run) == []
    other = asdict(replace(get_profile("laptop"), coder="rules").with_values("x", evaluate__max_steps=9))
    path.write_text(json.dumps(manifest | {"profile": other}))
    (sentence,) = unequal_conditions(run)
    assert sentence.startswith("m: 6 steps a trajectory in place of 9, coder base in place of rules, so not")
    own = run / "agents" / "m" / "manifest.json"
    own.write_text(own.read_text().replace('"up": "digest",', ""))
    assert "m: 2 of the run's 3 tasks, 6 steps" in unequal_conditions(run)[0]


# the view itself


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


STEP = {
    "step": 0, "reply": final(), "action": "Final Answer", "action_input": {"final_answer": "done"},
    "observation": "", "outcome": "neutral", "reason": "valid", "score_before": 5.0, "score_after": None,
    "reward": 0.5, "script_before": "a\n", "script_after": "a\n", "seconds": 0.0, "cache_hit": False,
}  # fmt: skip


def shown(task, step, out=None, calls=()) -> str:
    out = io.StringIO() if out is None else out
    LiveView(out, task, 3).step({**STEP, **step}, calls)
    return out.getvalue()


@pytest.fixture
def task(place):
    return labs.find_task(place / TASK)


def test_colour_on_a_terminal_only_and_not_where_it_is_unwanted(task, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    change = {"script_before": "a = 1\nb = 1\n", "script_after": "a = 2\nb = 1\n"}
    coloured, plain = shown(task, change, Terminal()), shown(task, change)
    assert "\x1b[31m-a = 1\x1b[0m" in coloured and "\x1b[32m+a = 2\x1b[0m" in coloured
    assert "\x1b" not in plain and "    -a = 1\n    +a = 2\n" in plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(task, change, Terminal()) and not wants_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())


def test_a_reply_cannot_speak_to_the_terminal(task):
    evil = "\x1b[2J\x1b]0;title\x07 \u202egnp.exe \r over"
    reply = final().replace("Thought: none", f"Thought: {evil}")
    step = {"reply": reply, "action_input": {"final_answer": evil}, "script_after": f"a\n{evil}\n",
            "observation": evil, "outcome": "error", "reason": evil}  # fmt: skip
    text = shown(task, step)
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"} and "\\u001b[2J" in text and "\\u202e" in text
    assert not set(shown(task, {"reply": evil, "action": ""})) & {"\x1b", "\x07", "\u202e"}


def test_long_things_are_cut_and_say_so(task):
    long = final().replace("Thought: none", "Thought: " + "word " * 400)
    assert "… (1399 characters more)" in shown(task, {"reply": long}).replace("\n           ", " ")
    text = shown(task, {"script_after": "".join(f"x{i}\n" for i in range(100))})
    assert "… " in text and "lines more" in text and text.count("\n    +x") <= 40


def test_an_invalid_reply_is_shown_as_it_is(task):
    fault = {"outcome": "invalid", "reason": "missing-field"}
    fault["observation"] = "Invalid action: the field is missing."
    text = shown(task, {"reply": "Nice weather.", "action": "", **fault})
    assert "  reply    Nice weather." in text and "  told     Invalid action: the field is missing." in text
    assert "  score    unchanged · reward 0.500 · invalid (missing-field) · 0.0 s" in text
    assert "  reply    (empty)" in shown(task, {"reply": "", "action": ""})


def test_the_end_of_a_task_without_a_scale(task):
    out = io.StringIO()
    row = {"steps": [STEP], "final": {"feedback_last": 2.5, "stop": "steps"}}
    LiveView(out, replace(task, best={}), 3).end(row)
    assert "feedback score 5 → 2.5, gain 50.0 %\nstopped: steps, after 1 steps" in out.getvalue()
    LiveView(out, task, 3).end({"steps": [], "final": {"feedback_last": None, "stop": "unscored"}})
    assert "feedback score 5 → –, no gain is known" in out.getvalue()


def test_a_line_of_the_diff_is_a_line_of_the_script(task):
    told = shown(task, {"outcome": "edited", "script_after": "a  # b\u2028import os\x0cas c\n"})
    assert "+a  # b\\u2028import os\\u000cas c\n" in told


def test_the_line_of_what_goes_on_is_written_over(task):
    out = Terminal()
    view = LiveView(out, task, 3, colour=False)
    view.status("waiting 12 s: 60 requests a minute")
    view.step(STEP)
    assert "\r\x1b[Kwaiting 12 s: 60 requests a minute\r\x1b[K\nstep 1 of at most 3" in out.getvalue()
    quiet = io.StringIO()
    LiveView(quiet, task, 3).status("waiting")
    assert quiet.getvalue() == ""


CALL = Call("policy", "m", "a/t/0", 0, 1, "k", False, False, "", 2, 100, 0, 10, 5, 0, 1, 0, 0.5)


def test_progress_by_hand():
    now = [0.0]
    out = io.StringIO()
    bar = ProgressLine(out, "m", 4, 3, clock=lambda: now[0])
    bar.on_call(CALL)
    bar.on_call(replace(CALL, hit=True, requests=0, number=2))
    bar.on_step(None, STEP, "")
    bar.on_step(None, STEP, "unscored")
    now[0] = 65.0
    bar.on_wait(12.0, "60 requests a minute")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # a new line every half minute, no more
    assert lines[1] == (
        "m: 1 of 4 trajectories, 2 of at most 12 steps, 1:05 min | 2 requests (1 retries), 1 known, "
        "1 asked again, 105 tokens in, 11 out | 1 unscored | waiting 12 s: 60 requests a minute"
    )
    bar.finish()
    assert "waiting" not in out.getvalue().splitlines()[-1]
    tty = Terminal()
    bar = ProgressLine(tty, "m\x1b", 4, 3, clock=lambda: now[0])
    bar.on_step(None, STEP, "")
    bar.finish()
    assert tty.getvalue().count("\r\x1b[K") == 2 and tty.getvalue().endswith("\n")
    assert "\x1b" not in tty.getvalue().replace("\r\x1b[K", "")
