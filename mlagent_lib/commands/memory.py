"""``mlagent memory``: what a profile's model takes on a card, before anything is loaded."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent memory`` say."""
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
    print("\n".join(found.lines()))
    check_fit(profile, card, backend=arguments.backend)
    print(f"fits: about {found.peak / GB:.1f} GB of {card:.1f}")
