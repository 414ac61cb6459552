"""Progress of a long cell: what the line says, when it tells the time left, what a terminal hears of it."""

import pytest

from mlagent_lib.run import progress
from mlagent_lib.run.progress import TOLD_IN, Bar, told


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Handle:
    """Stands for the place in a notebook."""

    def update(self, line, raw):
        self.line = line["text/plain"]


def bar(total: int) -> Bar:
    made = Bar("learning", total, "updates")
    made._handle = Handle()
    return made


def test_the_time_left_by_hand(clock):
    """Units 11 to 15 take 30 s, 6 s each: 25 more take 150 s. What an earlier start made does not count."""
    made = bar(40)
    clock[0] += 500  # loading
    made.to(10, "loss 0.5")
    assert made._handle.line.endswith("10 of 40 updates, 8:20 min  loss 0.5")
    clock[0] += 10
    made.to(12)
    assert "left" not in made._handle.line  # the rate is a guess yet
    clock[0] += 20
    made.to(15)
    assert made._handle.line.endswith("15 of 40 updates, 8:50 min, about 2 min left")
    clock[0] += 600
    made.to(40)
    assert "left" not in made._handle.line


def test_a_terminal_hears_of_the_line_while_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "TELL_S", 0.01)
    place, said = tmp_path / "progress.txt", []
    monkeypatch.setenv(TOLD_IN, str(place))
    place.write_text("of an earlier notebook")
    with told(place, said.append):
        bar(4).to(4, "loss 0.5")
        for _ in range(1000):
            if said:
                break
            progress.time.sleep(0.01)
        progress.time.sleep(0.1)
    assert [line.split("  ")[-1] for line in said] == ["loss 0.5"]  # once, and nothing of the earlier one


def test_nothing_is_told_of_a_cell_without_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "TELL_S", 0.01)
    said = []
    with told(tmp_path / "progress.txt", said.append):
        progress.time.sleep(0.1)
    assert said == []
