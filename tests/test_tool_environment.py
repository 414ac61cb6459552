"""The tasks as tools: what each call does, what a trajectory is paid, and TRL's own loop around them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_task import FakeRunner, make_tools, neighbours

import mlagent_lib
from mlagent_lib.agents.prompts import POCKET
from mlagent_lib.core.errors import MlagentError, Unscored
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.sockets.desk import Desk
from mlagent_lib.sockets.tools import ToolEnvironment, tool_environment, tool_tokenizer

POCKET_MODEL = Path(mlagent_lib.__file__).parent / "training" / "pocket_model"


@pytest.fixture
def desk(tmp_path, task):
    return Desk({task.name: task}, make_tools(tmp_path), form="v2", max_steps=6)


def use(n):
    return {"script_name": "train.py", "edit_instruction": f"Use {n} nearest neighbours."}


def test_calls_do_what_the_six_fields_do(desk, task):
    tools = ToolEnvironment(desk)
    start = start_state(task, desk.tools)
    assert tools.reset(task=task.name, prompt=[]) == POCKET.messages(start, task)[0]["content"]
    assert "validation mae: 1.000" in tools.edit(**use(8))
    assert "n_neighbors=8" in tools.inspect("train.py", 1, 20)
    assert "validation mae: 1.000" in tools.execute("train.py")
    assert "EnvError" in tools.edit("../x.py", "Use 8.") and "noted" in tools.final_answer("done")
    with pytest.raises(MlagentError, match="the trajectory is over"):
        tools.execute("train.py")


def test_a_trajectory_is_paid_as_one_action_or_as_the_sum_of_its_calls(desk):
    paid = {}
    for pays in ("gain", "sum"):
        tools = ToolEnvironment(desk, pays)
        tools.reset()
        assert tools.get_reward() == (-1.0 if pays == "gain" else 0.0)  # no call at all
        tools.inspect("train.py", 1, 2)
        assert tools.get_reward() == 0.0
        tools.edit(**use(8))  # 5.0 -> 1.0, of 5.0 to gain
        tools.edit("nowhere.py", "Use 8 nearest neighbours.")
        tools.edit(**use(20))  # 1.0 -> 2.5
        paid[pays] = tools.get_reward()
    assert paid == {"gain": 0.5, "sum": pytest.approx(0.8 - 1.0 - 0.3)}
    tools.reset()
    assert tools.get_reward() == 0.0  # nothing is carried over


def test_undo_goes_back_to_before_the_last_edit_of_a_script(desk):
    tools = ToolEnvironment(desk)
    tools.reset()
    assert "no edit of train.py to undo" in tools.undo("train.py")
    tools.reset()
    for n in (8, 20):
        tools.edit(**use(n))
    assert tools.get_reward() == 0.5
    assert "as it was before its last edit.\nThe script has been executed." in tools.undo("train.py")
    assert "n_neighbors=8" in tools.inspect("train.py", 1, 20) and tools.get_reward() == 0.8
    tools.undo("train.py")
    assert "n_neighbors=40" in tools.inspect("train.py", 1, 20) and tools.get_reward() == 0.0


def test_it_starts_from_a_saved_state(desk, task):
    start = start_state(task, desk.tools)
    state = run_steps([(start, neighbours(20))], desk.tools)[0].state
    tools = ToolEnvironment(desk)
    shown = tools.reset(task=task.name, state=json.dumps(state.to_json()), state_id=state.id)
    assert shown == POCKET.messages(state, task)[0]["content"]
    tools.edit(**use(8))
    assert tools.get_reward() == pytest.approx(0.3)  # 2.5 -> 1.0


def test_what_we_fail_has_no_reward(tmp_path, task):
    fails = FakeRunner(lambda request: Unscored("lost") if b"=8)" in request.files["train.py"] else None)
    tools = ToolEnvironment(Desk({task.name: task}, make_tools(tmp_path, fails)))
    tools.reset()
    with pytest.raises(Unscored, match="lost"):
        tools.edit(**use(8))
    assert tools.get_reward() is None
    tools.reset()
    assert tools.get_reward() == 0.0


def test_wrong_words_are_named():
    with pytest.raises(MlagentError, match="pays 'mean' is unknown. What to do: choose gain or sum"):
        tool_environment(["pocket-homes"], pays="mean")
    with pytest.raises(MlagentError, match="no task named"):
        tool_environment(["pocket-moons"])


def test_the_short_template_shows_the_tools_and_reads_a_call_back(desk):
    pytest.importorskip("trl")
    from trl.chat_template_utils import parse_response, supports_tool_calling

    tokenizer, tools = tool_tokenizer(POCKET_MODEL), ToolEnvironment(desk)
    assert supports_tool_calling(tokenizer)
    asked = [{"role": "user", "content": "Improve it."}]
    given = [tools.edit, tools.undo]
    text = tokenizer.apply_chat_template(asked, tools=given, tokenize=False, add_generation_prompt=True)
    assert "\nedit(script_name, edit_instruction): Change a script as told" in text
    assert text.endswith("Improve it.<|im_end|>\n<|im_start|>assistant\n")
    call = {"type": "function", "function": {"name": "edit", "arguments": use(8)}}
    said = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    whole = tokenizer.apply_chat_template(asked + said, tools=given, tokenize=False)
    ids = [tokenizer(part).input_ids for part in (whole[len(text) :].strip(), text)]
    read = parse_response(tokenizer, ids[0], prefix=ids[1])
    assert read.get("tool_calls") == [call], read


@pytest.mark.slow
def test_trl_calls_the_tools_and_takes_the_one_reward(desk, task, tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = tool_tokenizer(POCKET_MODEL)
    row = {"prompt": [{"role": "user", "content": "Improve the script.\n"}], "task": task.name}
    made = []
    trainer = trl.GRPOTrainer(
        str(POCKET_MODEL), train_dataset=Dataset.from_list([row] * 2), processing_class=tokenizer,
        environment_factory=lambda: made.append(ToolEnvironment(desk)) or made[-1],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, num_generations=2,
            max_completion_length=200, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            logging_steps=1,
        ),
    )  # fmt: skip
    generate, said = trainer._generate_single_turn, []

    def speaks(*words, **named):
        """Return what the model would have to learn to say: in the second update, two different edits."""
        replies, logprobs = generate(*words, **named)
        if len(said) == 1:
            texts = [
                f'<tool_call>\n{{"name": "edit", "arguments": {json.dumps(use(n))}}}\n</tool_call>'
                for n in (8, 20)
            ]
            replies = [tokenizer(text + "<|im_end|>").input_ids for text in texts]
            logprobs = logprobs and [[-1.0] * len(reply) for reply in replies]
        said.append(len(replies))
        return replies, logprobs

    trainer._generate_single_turn = speaks
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["tools/call_frequency"] == 0.0 and first["reward"] == -1.0
    assert second["tools/call_frequency"] == 1.0 and second["tools/failure_frequency"] == 0.0
    assert second["rewards/ToolEnvironment/mean"] == pytest.approx((0.8 + 0.5) / 2)
    assert second["grad_norm"] > 0 and len(made) == 2


@pytest.mark.slow
@pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")
def test_the_cell_of_the_readme_runs_in_a_notebook(repository, tmp_path):
    text = (repository / "mlagent_lib" / "sockets" / "README.md").read_text(encoding="utf-8")
    cell = re.search(r"<!-- tool-example -->\s*```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in cell.splitlines() if line.strip()]) == 10
    cells = [
        nbformat.v4.new_code_cell(part) for part in (cell, "print(trainer.state.log_history[0]['reward'])")
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    assert "train_runtime" in str(notebook.cells[0].outputs[-1]["data"])
    assert 0.0 <= float(notebook.cells[1].outputs[0]["text"]) <= 1.0
