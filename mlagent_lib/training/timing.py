"""How long a run of a model will take on this machine: from a measured step, before anything long starts.

The step is measured in a process of its own, once for each model, precision and machine, and kept below
`home_folder`. What a run needs of it is counted from the profile; scripts come on top.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.core.files import sha256_json, write_json
from mlagent_lib.core.profiles import Loading, Profile
from mlagent_lib.core.provenance import cpu_name
from mlagent_lib.tasks.registry import home_folder, list_tasks

PROMPT = 256  # ours: tokens of a pocket prompt (SmolLM2's: 213 on average, 331 at most)
ROWS, NEW = 16, 16  # of the measured step: prompts in groups of eight, and tokens of each reply
REFERENCE = 4 / 3  # its log-probabilities: one more forward pass for a forward and a backward one


@dataclass(frozen=True)
class Speed:
    """Seconds a token of a model on this machine.

    Attributes:
        learn: To read it and learn from it, with an adapter.
        sample: To write it, `ROWS` replies side by side.
        precision: Of the products.
    """

    learn: float
    sample: float
    precision: str


def speed_of(model: str, loading: Loading) -> Speed:
    """Return the speed of a model, measured where that was not done yet (half a minute).

    Raises:
        MlagentError: The model cannot be loaded or trained here; the message is that of the attempt.
    """
    asked = {"model": model, "loading": asdict(loading)}
    threads = os.environ.get("OMP_NUM_THREADS", "")
    name = sha256_json([asked, cpu_name(), threads])[:12]
    record = home_folder() / f"speed-{name}.json"
    if not record.exists():
        command = [sys.executable, "-m", __name__, json.dumps(asked), str(record)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            told = json.loads(done.stdout or "[]") or [f"a step of {model} could not be measured", ""]
            raise MlagentError(told[0], cure=told[1])
    return Speed(**json.loads(record.read_text(encoding="utf-8")))


def measure(model: str, loading: Loading) -> Speed:
    """Return the speed of a model, from the second of two steps each."""
    import torch

    from mlagent_lib.training.backends import load

    loaded = load(model, backend=loading)
    loaded.attach_lora(16, 32, seed=0)
    net, stream = loaded.model, torch.Generator().manual_seed(0)
    ids = torch.randint(5, net.get_input_embeddings().weight.shape[0] - 5, (4, PROMPT), generator=stream)
    ids = ids.to(net.device)

    def learn() -> None:
        with torch.autocast(loaded.device, torch.bfloat16, enabled=loaded.precision == "bfloat16"):
            net(input_ids=ids, labels=ids).loss.backward()

    def sample() -> None:
        rows = ids[: ROWS // 8].repeat_interleave(8, dim=0)
        with torch.inference_mode():
            net.generate(input_ids=rows, attention_mask=torch.ones_like(rows), max_new_tokens=NEW,
                         min_new_tokens=None, do_sample=True, top_k=0, top_p=1.0)  # fmt: skip

    seconds = {}
    for name, step in (("learn", learn), ("sample", sample)):
        for _ in range(2):
            began = time.perf_counter()
            step()
            if loaded.device == "cuda":
                torch.cuda.synchronize()
            seconds[name] = time.perf_counter() - began
    return Speed(seconds["learn"] / ids.numel(), seconds["sample"] / (ROWS * NEW), loaded.precision)


def minutes_of(profile: Profile, speed: Speed) -> dict[str, float]:
    """Return the minutes of the model in each part of a run: upper bounds, with replies as long as allowed.

    Example:
        >>> from mlagent_lib.core.profiles import get_profile
        >>> made = get_profile("smoke").with_values("x", grpo__max_new_tokens=100, grpo__eval_every=9)
        >>> minutes_of(made, Speed(0.003, 0.003, "float32"))["one GRPO update"]
        0.3664

    By hand: 2 prompts of 256 tokens and 16 replies of 100 to learn from, 3 ms · 4/3 each, are 8.4 s; 16
    replies of 100 and the base coder's of 160 to write, 3 ms each, are 12.5 s.
    """
    grpo, sft = profile.grpo, profile.sft
    prompt, reply = profile.prompt_tokens or PROMPT, grpo.max_new_tokens
    tasks = {name: _count(getattr(profile, name).tasks) for name in ("collect", "evaluate")}
    turns = tasks["collect"] * profile.collect.trajectories_per_task * profile.collect.max_steps
    written = reply + (profile.coder_tokens if profile.coder == "base" else 0)
    actions = grpo.states_per_step * grpo.group_size
    read = grpo.states_per_step * prompt + actions * reply
    update = read * speed.learn * REFERENCE * grpo.num_iterations + actions * written * speed.sample
    short = tasks["collect"] * grpo.eval_trajectories * grpo.eval_steps
    chosen = (grpo.steps / grpo.eval_every + 1) * (grpo.eval_states * grpo.eval_samples + short)
    acted = tasks["evaluate"] * profile.evaluate.k * profile.evaluate.max_steps
    with_model = len(set(profile.evaluate.policies) & {"base", "sft", "rl"})
    seconds = {
        "SFT": turns * (1 - sft.holdout_share) * sft.epochs * (prompt + reply) * speed.learn,
        "one GRPO update": update,
        "GRPO": grpo.steps * update + chosen * written * speed.sample,
        "evaluation": acted * with_model * written * speed.sample,
    }
    return {name: round(value / 60, 4) for name, value in seconds.items()}


def _count(tasks: str | tuple[str, ...]) -> int:
    if isinstance(tasks, tuple):
        return len(tasks)
    return len(list_tasks(None if tasks == "all" else tasks))


def announce_time(profile: Profile, say: Callable[[str], None] = print) -> None:
    """Print how long a profile will take here, from a measured step; nothing for the pocket model."""
    if profile.model == "pocket":
        return
    speed = speed_of(profile.model, profile.loading)
    minutes = minutes_of(profile, speed)
    whole = sum(value for name, value in minutes.items() if name != "one GRPO update")
    promised = f"; the profile promises {profile.budget_minutes:.0f}" if profile.budget_minutes else ""
    say(
        f"measured here, {speed.precision}: {1000 * speed.learn:.1f} ms to learn from a token, "
        f"{1000 * speed.sample:.1f} ms to write one"
    )
    say(
        f"so about {minutes['SFT']:.0f} min for SFT, {minutes['GRPO']:.0f} for {profile.grpo.steps} updates "
        f"of GRPO ({60 * minutes['one GRPO update']:.0f} s each), {minutes['evaluation']:.0f} for the "
        f"evaluation: {whole:.0f} min at most with replies of full length, and the scripts{promised}"
    )


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    try:
        found = measure(asked["model"], Loading(**asked["loading"]))
    except MlagentError as error:
        print(json.dumps([error.message, error.cure]))
        raise SystemExit(2) from error
    write_json(Path(sys.argv[2]), asdict(found))
