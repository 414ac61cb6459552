"""Hostile scripts, one by one, at the best tier of this machine and at the one that needs no privileges."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import cases_garbage
import cases_host
import cases_labels
import pytest
from scene import MARK, SMALL, Scene, name_of, row, settles

from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.runner import Runner, probe

pytestmark = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")

CASES = cases_host.CASES + cases_garbage.CASES


def tiers() -> list[str]:
    """Return the best tier of this machine, and the one that asks for no privileges."""
    return list(dict.fromkeys([probe().chosen or "none", "T2"]))


@pytest.fixture(scope="module", params=tiers())
def scene(request, tmp_path_factory):
    if request.param not in probe().available:
        pytest.skip(f"{request.param} does not work here: {probe().failed.get(request.param)}")
    held = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(held, True)  # what a careless caller has open when the server starts
    os.environ["HF_TOKEN"] = "canary-token"
    try:
        with Runner(workers=1, tier=request.param) as runner:
            runner.warm()
            place = Scene(tmp_path_factory.mktemp("scene"), runner)
            yield place
            place.close()
    finally:
        os.close(held)
        del os.environ["HF_TOKEN"]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_hostile_script_ends_as_documented_and_changes_nothing(scene, case):
    result = scene.run(case)
    assert result.status in case.status, result
    assert case.says in result.output, result.output
    assert "NOT REFUSED" not in result.output and "canary-token" not in result.output
    assert result.collected == case.collect or not case.collect
    assert {name: result.collect_errors.get(name) for name in case.refuses} == case.refuses
    assert result.tier == scene.runner.tier


def test_whatever_is_printed_is_plain_text_that_json_can_hold(scene):
    (case,) = (case for case in CASES if case.number == 45)
    shown = scene.run(case).output
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"], ascii(shown)


def test_no_case_can_multiply_without_a_small_limit():
    assert SMALL["seconds"] <= 3 and SMALL["processes"] <= 16 and SMALL["memory_bytes"] <= 400 << 20
    for case in CASES:
        budget = case.budget()
        assert budget.seconds <= 10 and budget.processes <= 16 and budget.memory_bytes <= 400 << 20


def test_the_scene_notices_what_it_is_there_to_notice(scene):
    target, before = scene.host / "home" / ".bashrc", scene.before
    held = target.stat()
    target.chmod(0o700)
    assert scene._state() != before
    target.chmod(0o777)
    os.utime(target, ns=(held.st_atime_ns, held.st_mtime_ns + 1))
    assert scene._state() != before
    os.utime(target, ns=(held.st_atime_ns, held.st_mtime_ns))
    os.link(target, scene.folder / "link")
    assert scene._state() != before
    (scene.folder / "link").unlink()
    assert scene._state() == before
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", MARK])
    assert settles(lambda: scene.census() == [stray.pid])
    stray.kill()
    assert settles(lambda: Path(f"/proc/{stray.pid}/cmdline").read_bytes() == b"")
    assert scene.census() == [stray.pid]  # a zombie counts
    stray.wait()
    assert scene.census() == []
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", scene.plan()["datagram"])
        assert scene._contacts() == ["datagram"]


def test_the_table_lists_every_case_and_every_number_of_the_threat_list():
    cases = sorted([*CASES, *cases_labels.ALL], key=lambda case: case.number)
    numbers = [case.number for case in cases]
    assert numbers == list(range(1, len(cases) + 1)) and len(cases) >= 74
    text = Path(__file__).with_name("README.md").read_text()
    table = "\n".join(row(case) for case in cases)
    assert table in text, f"the table of tests/abuse/README.md should be:\n{table}"
