"""``mlagent tasks audit``: whether reading a card pays on the pocket suite, from its committed record."""

from __future__ import annotations

import argparse

from mlagent_lib.commands.output import print_table, say


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent tasks audit`` say."""
    from mlagent_lib.core.errors import TaskError
    from mlagent_lib.tasks.pocket import audit
    from mlagent_lib.tasks.registry import list_tasks

    if arguments.measure is not None:
        unknown = set(arguments.measure) - set(list_tasks())
        if unknown:
            raise TaskError(f"{', '.join(sorted(unknown))}: no pocket task", cure="see mlagent tasks list")
        audit.measure_all(arguments.measure, arguments.workers, say)
    record, split_of = audit.recorded(), {name: audit.card_of(name).split for name in list_tasks()}
    missing = [name for name in split_of if "rule" not in record.get(name, {})]
    if missing:
        raise TaskError(f"no record of {', '.join(missing)}", cure="run mlagent tasks audit --measure")
    rows = [("task", "split", "best edit alone", "closes", "three", "rule", "by what its card says")]
    for name, one in record.items():
        shares = (f"{share:.2f}" for share in (one["three"][0], one["three"][-1], one["rule"]["share"]))
        said = ", ".join(one["rule"]["edits"]) or "-"
        rows.append((name, split_of[name], audit.best_edit(one["shares"]), *shares, said))
    print_table(rows)
    print("\nWhat the held-in tasks teach:\n")
    taught = audit.learned_on_held_in(record)
    print_table([
        (fact, "classifiers" if classify else "regressors", f"{mean:.2f}", key)
        for (fact, classify), (key, mean) in taught.items()
    ])  # fmt: skip
    print()
    found = audit.conditions(record, split_of)
    print_table([("holds" if one.holds else "DOES NOT HOLD", one.asked, one.found) for one in found])
    return 0 if all(one.holds for one in found) else 1
