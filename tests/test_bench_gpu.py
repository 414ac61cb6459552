"""The GPU bench: its arithmetic by hand, its verdicts, its messages; it measures a toy on a CPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlagent_lib import cli
from mlagent_lib.bench import gpu as bench_gpu
from mlagent_lib.bench import gpu_worker as worker
from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.training.flops import peak_tflops, update_flops
from mlagent_lib.training.memory import Shape, parameters

TOY = Shape(hidden=16, feed_forward=24, layers=2, heads=2, kv_heads=1, vocabulary=3072, tied=True)
H100 = {"name": "NVIDIA H100 80GB HBM3", "driver": "580.1"}


def row(backend, shape="7B", **changes):
    values = {
        "backend": backend, "shape": shape, "tokens_per_second": 1234.5, "step_seconds": 30.0,
        "update_seconds": 10.0, "update_tflops": 346.325, "peak_bytes": 50 << 30, "prompt_tokens": 900.0,
        "completion_tokens": 256.0, "steps": 4,
    }  # fmt: skip
    return values | changes


# Arithmetic ------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_read_once_saves_its_share_and_no_more():
    whole = update_flops(TOY, rows=8, prompt=100, completion=10)
    once = update_flops(TOY, rows=8, prompt=100, completion=10, prompt_rows=1)
    # 7 prompts of 100 tokens: products with weights twice forward, attention among themselves three times
    saved = 2 * 2 * parameters(TOY)[0] * 700 + 3 * 2 * 16 * (2 * 7 * 100**2)
    assert whole - once == saved
    assert update_flops(TOY, rows=8, prompt=100, completion=10, prompt_rows=8) == whole
    # prompt and completion in one piece: attention for half of all pairs
    assert update_flops(TOY, rows=1, prompt=3, completion=2) == pytest.approx(
        2 * (2 * parameters(TOY)[0] * 5 + 2 * 16 * 3072 * 2) + 3 * 2 * 16 * 2 * 5**2
    )


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("Tesla T4", 65.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A10G", None),  # another chip than the A10
        ("NVIDIA L40", None),
    ],
)
def test_each_card_gets_its_own_peak(card, peak):
    found = peak_tflops(card)
    assert (found and found[0]) == peak
    assert found is None or "data sheet" in found[1]


# Verdicts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "unsloth", "reached"),
    [
        ({}, {"step_seconds": 20.0}, True),
        ({}, {"step_seconds": 20.1}, False),
        ({}, {"step_seconds": 40.0, "peak_bytes": 30 << 30}, True),  # slower, but 0.6 of the memory
        ({}, {"step_seconds": 40.0, "peak_bytes": 31 << 30}, False),
        ({"failed": "out of memory"}, {}, None),  # nothing to compare with
        ({}, {"shape": "1.5B", "step_seconds": 1.0}, None),
    ],
)
def test_the_comparison_is_reached_missed_or_not_measured(plain, unsloth, reached):
    compared, _ = bench_gpu.goals([row("plain", **plain), row("unsloth", **unsloth)])
    assert compared["reached"] is reached


def test_the_share_of_the_peak():
    record = bench_gpu.assemble([row("plain"), row("unsloth", update_tflops=346.4)], gpu=H100)
    shares = [found["share_of_peak"] for found in record["rows"]]
    assert shares == pytest.approx([0.35, 346.4 / 989.5]) and record["gpu"]["peak_tflops"] == 989.5
    assert record["goals"][1]["reached"] is True
    below = bench_gpu.assemble([row("unsloth", update_tflops=340.0)], gpu=H100)
    assert below["goals"][1]["reached"] is False
    unknown = bench_gpu.assemble([row("unsloth")], gpu={"name": "Other", "driver": "1"})
    assert unknown["goals"][1]["reached"] is None and "share_of_peak" not in unknown["rows"][0]
    assert "peak unknown (no data sheet" in bench_gpu.goal_lines(unknown)[-1]


def test_the_table_shows_what_failed_and_the_lines_below_say_what_was_reached():
    rows = [row("plain", failed="out of memory"), row("unsloth")]
    record = bench_gpu.assemble(rows, gpu=H100)
    _, first, second = bench_gpu.gpu_rows(record)
    assert first == ("7B", "plain", "-", "-", "-", "-", "-", "failed: out of memory")
    assert second == ("7B", "unsloth", "1,234", "30.00", "10.00", "50.0", "35%", "900 + 256 tokens, 4 steps")
    compared, share, card = bench_gpu.goal_lines(record)
    assert compared.endswith(": not measured") and share.endswith(": reached (share_of_peak 0.35)")
    assert card.startswith("NVIDIA H100 80GB HBM3, driver 580.1; peak 989.5 TFLOPS (NVIDIA H100 data sheet")


# The run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """Pretend that there is a card, and note the calls of workers, which answer as `answers` says."""
    calls, answers = [], {}

    def run(*words):
        calls.append(words)
        answer = answers.get(words[:3], {})
        if isinstance(answer, str):
            return SimpleNamespace(returncode=1, stderr=f"Traceback\n{answer}\n")
        if words[0] == "measure":
            Path(words[-1]).write_text(json.dumps(row(words[1], words[2], **answer)))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(bench_gpu, "_worker", run)
    monkeypatch.setattr(bench_gpu, "check_cuda", lambda: None)
    monkeypatch.setattr(bench_gpu, "describe_gpu", lambda: dict(H100))
    monkeypatch.setattr("mlagent_lib.training.backends.choose", lambda name: name)
    return SimpleNamespace(calls=calls, answers=answers)


def test_each_backend_gets_a_process_and_both_the_same_model(card, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    words = ["bench", "--gpu", "--shapes", "0.5B", "7B", "--out", str(out)]
    assert cli.main(words) == 0
    assert [call[:3] for call in card.calls if call[0] == "measure"] == [
        ("measure", "plain", "0.5B"), ("measure", "unsloth", "0.5B"),
        ("measure", "plain", "7B"), ("measure", "unsloth", "7B"),
    ]  # fmt: skip
    for shape in ("0.5B", "7B"):
        [written] = [call[2] for call in card.calls if call[:2] == ("write", shape)]
        assert {call[3] for call in card.calls if call[2] == shape} == {written}
    record = json.loads(out.read_text())
    assert record["schema"] == bench_gpu.SCHEMA and record["gpu"]["driver"] == "580.1"
    assert record["versions"]["torch"] and len(record["rows"]) == 4
    printed = capsys.readouterr().out
    assert "tokens/s" in printed and "update at 7B" in printed and str(out) in printed


def test_running_out_of_memory_is_a_result_and_a_crash_is_not(card, tmp_path, capsys):
    card.answers["measure", "plain", "7B"] = {"failed": "out of memory"}
    words = ["bench", "--gpu", "--shapes", "7B", "--out", str(tmp_path / "gpu.json")]
    assert cli.main(words) == 0
    card.answers["measure", "unsloth", "7B"] = "ImportError: broken"
    assert cli.main(words) == 1
    assert "failed: ImportError: broken" in capsys.readouterr().out


def test_a_model_that_cannot_be_written_ends_the_bench(card, monkeypatch):
    full = SimpleNamespace(returncode=1, stderr="Traceback\nOSError: No space left on device\n")
    monkeypatch.setattr(bench_gpu, "_worker", lambda *words: full)
    with pytest.raises(RunError, match="7B could not be written: OSError: No space left.*smaller --shapes"):
        bench_gpu.run_bench_gpu(["7B"])


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "mlagent bench --gpu --shapes 0.5B --out small.json" in text


def test_without_a_card_and_with_a_wrong_size_the_message_says_what_to_do(capsys):
    import torch

    assert cli.main(["bench", "--gpu", "--shapes", "8B"]) == 2
    assert "shape '8B' is unknown. What to do: choose among 0.5B" in capsys.readouterr().err
    if torch.cuda.is_available():
        return
    assert cli.main(["bench", "--gpu"]) == 2
    err = capsys.readouterr().err
    assert "needs a CUDA device" in err and "NVIDIA card" in err and err.count("\n") == 1


def test_an_uninstalled_backend_is_refused_before_anything_is_written(card, monkeypatch):
    def choose(name):
        if name == "unsloth":
            raise MlagentError("not installed", cure="install it")

    monkeypatch.setattr("mlagent_lib.training.backends.choose", choose)
    with pytest.raises(MlagentError, match="not installed"):
        bench_gpu.run_bench_gpu(["0.5B"])
    assert card.calls == []


# The measuring ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_worker_measures_sampling_and_training(tmp_path):
    worker.write_model(TOY, tmp_path / "model")
    settings = GRPOProfile(
        steps=3,
        states_per_step=1,
        group_size=2,
        lr=1e-4,
        max_new_tokens=4,
        eval_every=100,
        eval_samples=1,
        micro_batch=0,
        checkpointing=False,
    )
    (tmp_path / "work").mkdir()
    found = worker.measure_backend(
        "plain", TOY, tmp_path / "model", tmp_path / "work", grpo=settings, rows=3, tasks=["pocket-homes"],
        style="pocket",
    )  # fmt: skip
    assert (found["backend"], found["device"], found["steps"], found["peak_bytes"]) == ("plain", "cpu", 1, 0)
    assert found["tokens_per_second"] > 0 and 0 < found["update_seconds"] < found["step_seconds"]
    assert found["prompt_tokens"] > 50 and 1 <= found["completion_tokens"] <= 4
    flops = update_flops(
        TOY, rows=2, prompt=found["prompt_tokens"], completion=found["completion_tokens"], prompt_rows=1
    )
    assert found["update_tflops"] == pytest.approx(flops / found["update_seconds"] / 1e12, rel=0.05)
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_out_of_memory_is_written_down_and_anything_else_is_raised(tmp_path, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """Has the name of torch's."""

    def fail(error):
        def measure(*arguments, **options):
            raise error

        monkeypatch.setattr(worker, "measure_backend", measure)

    words = ["measure", "plain", "0.5B", "model", str(tmp_path / "record.json")]
    fail(OutOfMemoryError("CUDA out of memory"))
    assert worker.main(words) == 0
    assert json.loads((tmp_path / "record.json").read_text()) == {
        "backend": "plain", "failed": "out of memory", "shape": "0.5B",
    }  # fmt: skip
    fail(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        worker.main(words)
