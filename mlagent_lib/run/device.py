"""Which profile suits a machine: for the notebook that runs the whole story on one of Colab's."""

from __future__ import annotations

from mlagent_lib.core.profiles import get_profile

LARGE_GB = 39.0  # the profile `gpu` trains a 7B model in 16 bits, see `mlagent memory --profile gpu`


def profile_for_card(card_gb: float) -> str:
    """Return the profile for a card of that memory; without one that of a laptop.

    Args:
        card_gb: Memory in 10**9 bytes, 0 for none.

    Example:
        >>> profile_for_card(0), profile_for_card(15.8), profile_for_card(42.3)
        ('laptop', 'colab-t4', 'gpu')
    """
    if card_gb <= 0:
        return "laptop"
    return "gpu" if card_gb >= LARGE_GB else "colab-t4"


def chosen_profile(wanted: str = "") -> str:
    """Return the profile to run, and say why it is that one.

    Args:
        wanted: Its name; "" for the one that suits the device.

    Raises:
        ProfileError: There is no profile of that name.
    """
    import torch

    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    name = wanted or profile_for_card(card.total_memory / 1e9 if card else 0.0)
    found = get_profile(name)
    device = f"{card.name}, {card.total_memory / 1e9:.0f} GB" if card else "no GPU"
    why = "as you asked" if wanted else "chosen by the device"
    minutes = f"about {found.budget_minutes:g} minutes" if found.budget_minutes else "an unknown time"
    print(f"{device}: profile {name} ({why}), {minutes}. {found.purpose}")
    return name
