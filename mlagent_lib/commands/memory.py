"""``mlagent memory``: what a profile's model takes on a card, before anything is loaded."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent memory`` say."""
    from mlagent_lib.core.errors import ProfileError
    from mlagent_lib.core.profiles import get_profile
    from mlagent_lib.training.backends.backend import device_and_precision
    from mlagent_lib.training.memory import GB, available_gb, check_fit, estimate, shape_of
    from mlagent_lib.training.timing import announce_time

    profile = get_profile(arguments.profile)
    if arguments.model:
        profile = profile.with_model(arguments.model)
    if arguments.four_bit:
        profile = profile.with_values(profile.name, four_bit=True)
    card, options = arguments.card_gb or profile.card_gb, {"backend": arguments.backend}
    if not card and shape_of(profile.model) is None:
        raise ProfileError(f"profile {profile.name!r} is made for no card", cure="give one with --card-gb")
    bits = "4-bit base" if profile.four_bit else "16-bit base"
    if not card:
        bits = device_and_precision(profile.loading)[1]
        card, there = available_gb()
        options |= {"precision": bits, "on_card": there}
    found = estimate(profile, card_gb=card, **options)
    print(f"{profile.model}, profile {profile.name}, {arguments.backend}, {bits}")
    print("\n".join(found.lines()))
    check_fit(profile, card, **options)
    print(f"fits: about {found.peak / GB:.1f} GB of {card:.1f}")
    if arguments.time:
        announce_time(profile)
