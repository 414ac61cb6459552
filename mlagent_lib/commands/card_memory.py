"""``mlagent memory``: what a profile's model takes on a card, before anything is loaded."""

from __future__ import annotations

import argparse
from typing import Any

HELP = """\
Estimates the memory that a profile takes in SFT and in GRPO, from the published shape of its model: nothing
is loaded, no GPU is needed. Exit code 2, and a combination that fits, where it does not fit.

examples:
  mlagent memory --profile colab-t4                      Qwen2.5-1.5B on a T4
  mlagent memory --profile colab-t4 --model Qwen/Qwen2.5-3B-Instruct
  mlagent memory --profile gpu --card-gb 25.4            does 7B fit a 24 GB card? (25.4 billion bytes)
  mlagent memory --profile gpu --card-gb 25.4 --four-bit --backend unsloth

GB is a billion bytes, as card makers count. The numbers are for the longest prompts that the profile allows.
Unsloth never has all logits at once; the rest of its estimate is that of plain, so it needs no more."""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    memory = commands.add_parser(
        "memory", help="what a profile's model takes on a card", formatter_class=plain, description=HELP
    )
    memory.add_argument("--profile", default="colab-t4", help="colab-t4, gpu or paper; default colab-t4")
    memory.add_argument("--model", default="", metavar="NAME", help="such as Qwen/Qwen2.5-0.5B-Instruct")
    memory.add_argument("--card-gb", type=_size, metavar="GB", help="size of the card, default the profile's")
    memory.add_argument("--backend", choices=("plain", "unsloth"), default="plain", help="default plain")
    memory.add_argument("--four-bit", action="store_true", help="base weights in 4 bits")
    memory.set_defaults(call=_memory)


def _size(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("give a number above 0")
    return value


def _memory(arguments: argparse.Namespace) -> int:
    from mlagent_lib.core.errors import ProfileError
    from mlagent_lib.core.profiles import get_profile
    from mlagent_lib.training.memory import GB, check_fit, estimate

    profile = get_profile(arguments.profile)
    if arguments.model:
        profile = profile.with_model(arguments.model)
    if arguments.four_bit:
        profile = profile.with_values(profile.name, four_bit=True)
    card = arguments.card_gb or profile.card_gb
    if not card:
        raise ProfileError(f"profile {profile.name!r} is made for no card", cure="give one with --card-gb")
    found = estimate(profile, backend=arguments.backend, card_gb=card)
    bits = "4-bit base" if profile.four_bit else "16-bit base"
    print(f"{profile.model}, profile {profile.name}, {arguments.backend}, {bits}")
    for line in found.lines():
        print(line)
    check_fit(profile, card, backend=arguments.backend)
    print(f"fits: about {found.peak / GB:.1f} GB of {card:.1f}")
    return 0
