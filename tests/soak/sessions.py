"""A soak of the server: many clients at once, killed at random, and nothing lost, mixed up or left behind.

``python tests/soak/sessions.py`` starts ``mlagent serve`` and 50 clients in processes of their own, and kills
one now and then in the middle of whatever it does. Every answer that a client got is written down with the
state before it and the reply that was sent. Afterwards each is computed again in this process: reward,
outcome and the id of the state after it (a hash of the whole state, history included) must be the same. Then
the same edits are made through the server and in process by turns. Writes ``sessions.json`` beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]  # from a checkout that is not installed

from steps import edit, hardware, processes_below, reply

TASKS = ("pocket-homes", "pocket-phrases", "pocket-ballots")
SHARE_OF_EDITS = 0.15
WANTED_RATIO = 1.15


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50, help="at a time (default 50)")
    parser.add_argument("--calls", type=int, default=5000, help="answered calls (default 5000)")
    parser.add_argument(
        "--kill-every", type=float, default=2.0, help="mean seconds between kills (default 2)"
    )
    parser.add_argument("--pairs", type=int, default=40, help="edits timed both ways (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="of replies and kills (default 0)")
    parser.add_argument("--out", type=Path, default=HERE / "sessions.json", help="the report")
    parser.add_argument("--client", nargs=4, metavar=("URL", "LOG", "NAME", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- a client: one process, one session ----------------------------------------------------------


class Line:
    """A websocket that speaks OpenEnv's messages, without the weight of its client."""

    def __init__(self, url: str):
        from websockets.sync.client import connect

        # a machine so busy that it answers no ping for 20 s is slow, not gone
        words = {"max_size": None, "open_timeout": 120, "ping_interval": None, "legacy": True}
        self.socket = connect(url.replace("http", "ws", 1) + "/ws", **words)

    def ask(self, kind: str, **data) -> dict:
        """Return the answer to one message."""
        message = {"type": kind} if kind == "state" else {"type": kind, "data": data}
        self.socket.send(json.dumps(message))
        return json.loads(self.socket.recv())


def act(url: str, log: str, name: str, seed: str) -> None:
    """Walk from state to state until killed, and write down every answer."""
    from websockets.exceptions import ConnectionClosed

    draw, number, known = random.Random(f"{seed}/{name}"), 0, {}
    instructions = json.loads(Path(log).with_name("instructions.json").read_text())
    while True:
        line = Line(url)
        try:
            answer = line.ask("reset", task=draw.choice(TASKS))
        except ConnectionClosed:  # told that there is no place, and put out
            answer = {"type": "error", "data": {"code": "CAPACITY_REACHED"}}
        if answer["type"] != "error":
            break
        assert answer["data"]["code"] == "CAPACITY_REACHED", answer
        time.sleep(0.05 + draw.random() / 5)
    seen = answer["data"]["observation"]
    while True:
        known[seen["state_id"]] = seen["task"], answer["data"]["done"]
        here = seen["state_id"]
        alive = [key for key, (_, done) in known.items() if not done]
        restores = known[here][1] or draw.random() < 0.2
        if restores and draw.random() < 0.3:
            here = draw.choice(alive)
            answer = line.ask("reset", state=here)
            assert answer["data"]["observation"]["state_id"] == here, answer
            restores = False
        elif restores:
            here = draw.choice(alive)
        number += 1
        text = _reply(draw, f"{name}-{number}", instructions[known[here][0]])
        answer = line.ask("step", text=text, **({"state": here} if restores else {}))
        assert answer["type"] == "observation", answer
        seen = answer["data"]["observation"]
        row = {"before": here, "task": seen["task"], "text": text, "after": seen["state_id"]}
        row |= {"outcome": seen["outcome"], "reward": answer["data"]["reward"], "client": name}
        with open(log, "a") as handle:
            handle.write(json.dumps(row) + "\n")


def _reply(draw: random.Random, mark: str, instructions: list[str]) -> str:
    """Return something to say; the mark makes it nobody else's."""
    if draw.random() < SHARE_OF_EDITS:
        return edit(draw.choice(instructions)).replace("Thought: none", f"Thought: {mark}")
    return draw.choice(
        [
            f"nothing that is an action, {mark}",
            reply("Copy File", source="train.py", destination=f"{mark}.py"),
            reply("List Files", dir_path=mark),
            reply("Understand File", file_name="train.py", things_to_look_for=mark),
        ]
    )


# ---- the soak ------------------------------------------------------------------------------------


class Server:
    """``mlagent serve`` in a process of its own."""

    def __init__(self, folder: Path, sessions: int):
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        words = [f"--port={port}", f"--sessions={sessions}", f"--cache={folder / 'served'}", "--workers=2"]
        words += [word for name in TASKS for word in ("--task", name)]
        command = [sys.executable, "-m", "mlagent_lib", "serve", *words]
        self.temporary = folder / "tmp"
        self.temporary.mkdir(mode=0o711)
        surroundings = os.environ | {"TMPDIR": str(self.temporary), "PYTHONPATH": str(HERE.parent.parent)}
        self.words = folder / "server.txt"
        with open(
            self.words, "w"
        ) as words:  # no pipe: a server whose words nobody reads would come to a stop
            self.process = subprocess.Popen(command, env=surroundings, stderr=words)
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                self.line = Line(self.url)
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def amounts(self) -> dict:
        """Return what the server holds: descriptors, threads, processes below it."""
        place = Path(f"/proc/{self.process.pid}")
        return {
            "descriptors": len(os.listdir(place / "fd")),
            "threads": len(os.listdir(place / "task")),
            "processes": len(processes_below(self.process.pid)),
        }

    def end(self) -> dict:
        """Stop the server and return what is left of it."""
        below = processes_below(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        time.sleep(0.5)
        left = sum(Path(f"/proc/{pid}").exists() for pid in below)
        print(self.words.read_text()[-2000:], file=sys.stderr)
        return {"code": code, "processes": left, "temporary_entries": len(list(self.temporary.iterdir()))}


def soak(options: argparse.Namespace, folder: Path, server: Server, starts: dict) -> tuple[list[dict], dict]:
    """Return every answered call, and what happened meanwhile."""
    logs, clients, draw, kills, made = folder / "logs", {}, random.Random(options.seed), 0, 0
    logs.mkdir()
    from mlagent_lib.tasks.pocket import catalogue

    texts = {t.name: [e.instruction for e in catalogue.edits(t.modality, t.kind)] for t in starts.values()}
    (logs / "instructions.json").write_text(json.dumps(texts))
    began, at_once = time.monotonic(), 0
    next_kill = began + options.kill_every * 3
    while True:
        while len(clients) < options.clients:
            name, made = f"c{made}", made + 1
            words = ["--client", server.url, str(logs / f"{name}.jsonl"), name, str(options.seed)]
            clients[name] = subprocess.Popen([sys.executable, __file__, *words])
        time.sleep(0.2)
        _all_alive(clients)
        sizes = [path.read_bytes().count(b"\n") for path in logs.glob("*.jsonl")]
        at_once = max(at_once, sum((logs / f"{name}.jsonl").exists() for name in clients))
        if sum(sizes) >= options.calls:
            break
        if time.monotonic() >= next_kill:
            client = clients.pop(draw.choice(sorted(clients)))
            client.kill()
            client.wait()
            kills += 1
            next_kill = time.monotonic() + draw.expovariate(1 / options.kill_every)
    seconds = time.monotonic() - began
    for client in clients.values():
        client.kill()
    for client in clients.values():
        client.wait()
    rows = []
    for path in sorted(logs.glob("*.jsonl")):
        lines = path.read_text().split("\n")
        rows += [
            json.loads(line) for line in lines[:-1]
        ]  # what follows the last line break was cut by a kill
    return rows, {
        "killed_in_the_middle": kills, "clients_ever": made, "clients_at_once": at_once,
        "seconds": round(seconds, 1), "calls_per_second": round(len(rows) / seconds, 1),
    }  # fmt: skip


def _all_alive(clients: dict) -> None:
    ended = [name for name, client in clients.items() if client.poll() is not None]
    if ended:
        for client in clients.values():
            client.kill()
        raise SystemExit(f"clients that ended by themselves: {', '.join(ended)}")


def compared(rows: list[dict], starts: dict, tools) -> dict:
    """Compute every call again, in process, and return how many differ."""
    from mlagent_lib.environment.step import run_steps
    from mlagent_lib.reward import reward_of
    from mlagent_lib.tasks.registry import find_task

    states, todo = {state.id: state for state in starts.values()}, rows
    wrong, outcomes = Counter(), Counter()
    while todo:
        ready = [row for row in todo if row["before"] in states][:500]
        if not ready:
            wrong["states that nobody reached"] = len(todo)
            break
        taken = {id(row) for row in ready}
        todo = [row for row in todo if id(row) not in taken]
        results = run_steps([(states[row["before"]], row["text"]) for row in ready], tools)
        for row, result in zip(ready, results, strict=True):
            reward = reward_of(result, find_task(row["task"]))
            wrong["states"] += result.state.id != row["after"]
            wrong["rewards"] += reward != row["reward"]
            wrong["outcomes"] += result.outcome.value != row["outcome"]
            outcomes[row["outcome"]] += 1
            states[result.state.id] = result.state
    return {"differ": dict(wrong), "outcomes": dict(sorted(outcomes.items()))}


def timed(server: Server, pairs: int, start, tools, instruction: str) -> dict:
    """Return the seconds of the same uncached edits through the server and in process, by turns."""
    from mlagent_lib.environment.step import run_step

    took = {"served": [], "in_process": [], "restore": [], "look": []}
    for number in range(-2, pairs):
        state = start.with_file("notes.txt", f"pair {number}\n".encode())  # no cache knows it
        row, text = state.to_json(), edit(instruction)
        for way in ("served", "in_process") if number % 2 else ("in_process", "served"):
            began = time.perf_counter()
            if way == "served":
                found = server.line.ask("step", text=text, state=row)["data"]["observation"]["state_id"]
            else:
                found = run_step(state, text, tools).state.id
            if number >= 0:
                took[way].append(time.perf_counter() - began)
        assert found == run_step(state, text, tools).state.id
        listed = {"text": reply("List Files", dir_path=".")}
        for way, (kind, words) in {"restore": ("reset", {"state": row}), "look": ("step", listed)}.items():
            began = time.perf_counter()
            server.line.ask(kind, **words)
            took[way].append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(took["served"], took["in_process"], strict=True))
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "pairs": pairs,
        "served_over_in_process": round(statistics.median(ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "edit_seconds_in_process": round(statistics.median(took["in_process"]), 4),
        "restore_ms": round(1000 * statistics.median(took["restore"]), 2),
        "look_ms": round(1000 * statistics.median(took["look"]), 2),
        "wanted": WANTED_RATIO,
    }


def run(options: argparse.Namespace, folder: Path) -> dict:
    """Return the report of soak, comparison and times."""
    server = Server(folder, options.clients + 1)  # one place for this process
    try:
        return _run(options, folder, server)
    finally:
        server.process.kill()


def _run(options: argparse.Namespace, folder: Path, server: Server) -> dict:
    from mlagent_lib.agents.toolbox import toolbox
    from mlagent_lib.core.provenance import git_state, versions
    from mlagent_lib.environment.step import start_state
    from mlagent_lib.tasks.pocket import catalogue
    from mlagent_lib.tasks.registry import find_task

    own = folder / "own"
    with toolbox(workers=2, cache=own) as tools:
        starts = {name: start_state(find_task(name), tools) for name in TASKS}
        for name in TASKS:
            server.line.ask("reset", task=name)
        before = server.amounts()
        rows, found = soak(options, folder, server, {name: find_task(name) for name in TASKS})
        deadline = time.monotonic() + 30
        while server.amounts() != before and time.monotonic() < deadline:
            time.sleep(0.2)
        after, counts = server.amounts(), server.line.ask("state")["data"]["counts"]
        checked = compared(rows, starts, tools)
        task = find_task(TASKS[0])
        instruction = catalogue.edits(task.modality, task.kind)[0].instruction
        speed = timed(server, options.pairs, starts[TASKS[0]], tools, instruction)
        tier = tools.runner.tier
    left = server.end()
    grown = {name: after[name] - before[name] for name in before}
    lost = max(0, len(rows) - counts["steps"])
    extra = counts["steps"] - len(rows)  # answered to nobody: the client was killed before it could write
    fine = not any(checked["differ"].values()) and not lost and extra <= found["clients_ever"]
    clean = not (left["processes"] or left["temporary_entries"]) and grown["processes"] == 0
    return {
        "clients": options.clients, "calls": len(rows), **found, "server_counts": counts, "lost": lost,
        "answered_to_a_dead_client": extra, **checked, "grown_on_the_server": grown,
        "left_after_its_end": left,
        "verdict": "nothing lost or mixed up" if fine and clean else "failed",
        "overhead": speed, "tier": tier, "seed": options.seed,
        "versions": versions(("openenv", "websockets", "uvicorn")), "git": git_state(),
        "hardware": hardware(),
    }  # fmt: skip


def main() -> int:
    """Run the soak in a temporary folder of its own; 0 when nothing was lost or mixed up."""
    options = arguments()
    if options.client:
        act(*options.client)
    with tempfile.TemporaryDirectory(prefix="mlagent-soak-") as place:
        folder = Path(place)
        folder.chmod(0o711)  # a throw-away user of a run has to pass through
        report = run(options, folder)
    text = json.dumps(report, indent=2) + "\n"
    options.out.write_text(text)
    print(text, end="")
    return 0 if report["verdict"] != "failed" else 1


if __name__ == "__main__":
    sys.exit(main())
