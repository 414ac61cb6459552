"""States of an ML workspace: what a step starts from, how it is stored, restored and forked.

A state holds the editable text files by content and the task's data by reference, so that a snapshot copies
no data and a restore can never lose read-only files (MLAgentBench's resume does). Files that a *script*
writes are not part of the state: each run starts in a fresh folder, and only the submission is kept, by its
hash.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_bytes, sha256_file, write_bytes

STATE_SCHEMA = "mlagent.state/1"


@dataclass(frozen=True)
class HistoryStep:
    """One past step as the policy saw it.

    Attributes:
        action: Name of the parsed action, or "" when the reply was invalid.
        visible: The validation metric that the script printed, in the task's unit; None when there was none.
    """

    reply: str
    action: str
    action_input: Mapping
    observation: str
    outcome: str
    visible: float | None = None

    def to_json(self) -> dict:
        """Return the step as JSON-ready values."""
        return vars(self) | {"action_input": dict(self.action_input)}


@dataclass(frozen=True)
class State:
    """What step-wise RL restores: task, workspace, history, score, step (paper section 3, state s_t).

    Attributes:
        task_digest: sha256 of the task's data and scripts; guards against restoring on other data.
        files: Editable files of the workspace, path to content. Data are not among them.
        score: Last valid score on the feedback labels, in the task's unit; None before any run. Never shown
            to the agent.
        visible: Last validation metric that the agent saw, in the task's unit.
        visible_start: The same for the starter.
        submission: sha256 of the last valid submission in the archive, or None.
        done: Whether the agent has given its Final Answer.
        past: The edits that can be undone, oldest first: a path and what it held (None: no such file).
    """

    task: str
    task_digest: str
    files: Mapping[str, bytes]
    history: tuple[HistoryStep, ...] = ()
    score: float | None = None
    visible: float | None = None
    visible_start: float | None = None
    submission: str | None = None
    step: int = 0
    done: bool = False
    past: tuple[tuple[str, bytes | None], ...] = ()
    _hashes: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))
        hashes = {path: sha256_bytes(data) for path, data in self.files.items()}
        object.__setattr__(self, "_hashes", MappingProxyType(hashes))

    def __reduce__(self):
        return State.from_json, (self.to_json(),)

    @property
    def digest(self) -> str:
        """Return the sha256 of the workspace tree: equal trees have equal digests, whatever their history."""
        return sha256_bytes(json.dumps([self.task_digest, dict(self._hashes)]).encode())

    @property
    def id(self) -> str:
        """Return a short name of the whole state, history included."""
        return sha256_bytes(json.dumps(self.to_json(embed=False)).encode())[:16]

    def text(self, path: str) -> str:
        """Return a file as text, bytes that are none replaced; "" where there is no such file."""
        return self.files.get(path, b"").decode(errors="replace")

    def with_file(self, path: str, content: bytes) -> State:
        """Return the state with one file written."""
        return replace(self, files={**self.files, path: content})

    def with_edit(self, path: str, content: bytes) -> State:
        """Return the state with one file written by an edit, which can be undone."""
        return replace(self.with_file(path, content), past=(*self.past, (path, self.files.get(path))))

    def without_edit(self, path: str) -> State | None:
        """Return the state with a file as it was before its last edit, or None where it was never edited.

        Example:
            >>> state = State("t", "", {"a.py": b"1"}).with_edit("a.py", b"2").with_edit("a.py", b"3")
            >>> back = state.without_edit("a.py")
            >>> back.files["a.py"], back.without_edit("a.py").files["a.py"], back.without_edit("b.py")
            (b'2', b'1', None)
        """
        at = next((at for at in range(len(self.past) - 1, -1, -1) if self.past[at][0] == path), None)
        if at is None:
            return None
        files, before = dict(self.files), self.past[at][1]
        del files[path]
        files |= {} if before is None else {path: before}
        return replace(self, files=files, past=(*self.past[:at], *self.past[at + 1 :]))

    def to_json(self, *, embed: bool = True) -> dict:
        """Return the state as JSON-ready values; with ``embed`` one JSON line holds the file contents too."""
        row = {"schema": STATE_SCHEMA} | {name: value for name, value in vars(self).items() if name[0] != "_"}
        past = [[path, None if data is None else sha256_bytes(data)] for path, data in self.past]
        row |= {"files": dict(self._hashes), "history": [step.to_json() for step in self.history]}
        row.pop("past")
        if past:
            row["past"] = past
        if embed:
            row["blobs"] = {digest: _encode(self.files[path]) for path, digest in self._hashes.items()}
            row["blobs"] |= {
                at[1]: _encode(data) for at, (_, data) in zip(past, self.past, strict=True) if at[1]
            }
        return row

    @classmethod
    def from_json(cls, row: Mapping) -> State:
        """Return the state that `to_json` wrote, with every file checked against its sha256.

        Raises:
            RunError: The schema is unknown, or a file is missing or damaged.
        """
        if row.get("schema") != STATE_SCHEMA:
            cure = "make the state pool again with this version of the kit"
            raise RunError(f"a state has schema {row.get('schema')!r}, expected {STATE_SCHEMA!r}", cure=cure)
        embedded, past = row.get("blobs", {}), row.get("past", ())  # states of older versions have no past

        def content_of(path: str, digest: str) -> bytes:
            content = _decode(embedded.get(digest))
            if content is None or sha256_bytes(content) != digest:
                raise RunError(
                    f"file {path!r} of a state of task {row['task']!r} is missing or damaged "
                    f"(sha256 {digest[:12]}…)",
                    cure="make the state pool again: its stored content does not match its name",
                )
            return content

        files = {path: content_of(path, digest) for path, digest in row["files"].items()}
        before = tuple((path, None if digest is None else content_of(path, digest)) for path, digest in past)
        history = tuple(HistoryStep(**step) for step in row["history"])
        others = ("files", "history", "past")
        names = [item.name for item in fields(cls) if item.init and item.name not in others]
        return cls(files=files, history=history, past=before, **{name: row[name] for name in names})


def _encode(data: bytes) -> str | dict:
    """Text stays readable; anything else is base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _decode(value: str | Mapping | None) -> bytes | None:
    try:
        return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])
    except (ValueError, KeyError, TypeError):  # damaged
        return None


class WorkspaceStore:
    """A folder of file contents, each named by its sha256: snapshots share what they have in common."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def put(self, data: bytes) -> str:
        """Store some bytes and return their sha256; a damaged blob of that name is made good."""
        digest = sha256_bytes(data)
        if not self.holds(digest):
            write_bytes(self._path(digest), data)
        return digest

    def holds(self, digest: str) -> bool:
        """Return whether the bytes with this sha256 are here and intact."""
        try:
            return sha256_file(self._path(digest)) == digest
        except FileNotFoundError:
            return False

    def __getitem__(self, digest: str) -> bytes:
        """Return the bytes with this sha256.

        Raises:
            RunError: They are missing or damaged.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            cure = "make this stage again"
            raise RunError(f"no blob {digest[:12]}… under {self.folder}", cure=cure) from None
        if sha256_bytes(data) != digest:
            cure = f"delete {path} and rerun"
            raise RunError(f"blob {path} is damaged: its content has another sha256", cure=cure)
        return data

    def snapshot(self, state: State) -> dict:
        """Store the files of a state and return its JSON row without contents."""
        for content in (*state.files.values(), *(data for _, data in state.past if data is not None)):
            self.put(content)
        return state.to_json(embed=False)

    def restore(self, row: Mapping) -> State:
        """Return the state of a row that `snapshot` made, bit-equal.

        Raises:
            RunError: A file is missing or damaged.
        """
        past = (digest for _, digest in row.get("past", ()) if digest is not None)
        names = {*row["files"].values(), *past}
        return State.from_json({**row, "blobs": {name: _encode(self[name]) for name in names}})

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest
