"""``mlagent pretrain``: the pocket model, rebuilt from nothing."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent pretrain`` say."""
    import logging

    from mlagent_lib.core.profiles import get_profile

    constants = get_profile(arguments.profile).pretrain
    from mlagent_lib.training.pretrain import main  # behind the check of the name: it loads torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(arguments.out, constants)
