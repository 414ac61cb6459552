"""A training of the kit as a program: started alone, or by `accelerate launch` in several processes.

    python train_together.py SCENE OUT

SFT and step-wise GRPO on the scene of `gpu/exercise.py`, written to OUT; every process also writes the
summary that it got. What the policy says is drawn here from its prompt alone, because each process has a
random stream of its own: so the same states bring the same actions, however many processes share them.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "gpu"), str(HERE.parent)]

from exercise import GRPO, PROMPTER, SFT, states_and_tools
from tiny_task import neighbours, rl_profile

from mlagent_lib.core.files import write_json
from mlagent_lib.training.pool import StatePool

# a large step and a large KL term: the loss of a first update on its own actions is zero whatever happens
TOGETHER = replace(GRPO, steps=3, eval_every=2, lr=3e-2, beta=0.5, micro_batch=0, checkpointing=False)
BATCH = replace(SFT, batch=8, epochs=3.0, micro_batch=0, checkpointing=False)


def fixed_replies(self, prompt_ids, *rest, **options):
    """Stand for `StepTrainer._generate_single_turn`: ids drawn from the prompt and the place in its group."""
    size, seen, found = self.model.config.vocab_size, Counter(), []
    for ids in prompt_ids:
        key = tuple(ids)
        stream = random.Random(hashlib.sha256(repr((key, seen[key])).encode()).digest())
        found.append([stream.randrange(3, size) for _ in range(GRPO.max_new_tokens)])
        seen[key] += 1
    return found, None


def main(scene: Path, out: Path) -> None:
    """Train, and write what this process was told."""
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.sft import train_sft
    from mlagent_lib.training.trainer import StepTrainer

    rank = os.environ.get("RANK", "0")
    states, tools = states_and_tools(out / f"work-{rank}")
    prompts = [PROMPTER.messages(state, tools.task(state.task)) for state in states]
    rows = [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": neighbours(8 + number)}]}
        for number in range(4)
        for prompt in prompts
    ]
    told = {}
    (out / "sft").mkdir(exist_ok=True)
    told["sft"] = train_sft(rows, BATCH, model=str(scene / "model"), backend="plain", out=out / "sft", seed=0)
    StepTrainer._generate_single_turn = fixed_replies
    told["grpo"] = train_grpo(
        rl_profile(str(scene / "model"), grpo=TOGETHER), StatePool(tuple(states)), states,
        make_tools=lambda coder: tools, adapter=scene / "adapter", out=out / "grpo", seed=0,
    )  # fmt: skip
    write_json(out / f"told-{rank}.json", told)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
