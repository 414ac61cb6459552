"""Trajectories for other tools: TRL's conversational rows, and a flat Parquet table.

The JSONL file stays the record; both forms here are made from it, and from the Parquet table the record can
be made again (`read_parquet`). What a line holds is in `schema`. Nothing here selects, weighs or tokenises.
"""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlagent_lib.agents.schema import SCHEMA_NAME, validate_row
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl, write_bytes, write_text

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("mlagent.export")

Messages = Sequence[Mapping[str, str]]
FORMS = ("messages", "prompt-completion")

# Columns of the Parquet table and what they hold: of a trajectory, of its end, and of a step. A trajectory
# without steps is one row whose step is null. What else a record holds is JSON in the column `extra` of each.
_ROW = dict.fromkeys(("id", "task", "split", "source"), "text") | {"seed": "whole", "ideas": "json"}
_FINAL = dict.fromkeys(
    ("feedback_last", "report_last", "feedback_best", "report_best", "report_start"), "number"
) | {"stop": "text"}
_STEP = {
    "step": "whole",
    **dict.fromkeys(("reply", "action", "observation", "outcome", "reason"), "text"),
    **dict.fromkeys(("script_before", "script_after", "tier"), "text"),
    **dict.fromkeys(("score_before", "score_after", "reward", "visible_metric", "seconds"), "number"),
    "cache_hit": "flag",
    **dict.fromkeys(("state", "action_input"), "json"),
}
_PARTS = (("", _ROW, "extra"), ("final_", _FINAL, "final_extra"), ("", _STEP, "step_extra"))


def read_trajectories(path: str | Path) -> list[dict]:
    """Return the trajectories of a JSONL file, each one checked.

    Raises:
        RunError: There is no file, a line is not JSON, or a trajectory breaks the format; the message names
            the file, the row and the field.
    """
    rows, bad = read_jsonl(path)
    if bad:
        cure = "delete these lines (a kill can leave one at the end), or collect again"
        raise RunError(f"{path} has {bad} lines that are not JSON objects", cure=cure)
    for number, row in enumerate(rows, 1):
        validate_row(row, where=f"{path}, row {number}")
    return rows


def conversational_rows(
    trajectories: Iterable[Mapping],
    render: Callable[[Mapping], Messages],
    *,
    form: str = "messages",
    keep: Callable[[Mapping], bool] | None = None,
    names: bool = False,
) -> Iterator[dict]:
    """Yield one row per step in a conversational format of TRL (SFTTrainer).

    Args:
        render: Maps a step to the messages of its prompt, ``{"role", "content"}``. Where the last one is the
            assistant's, it is taken as the reply; otherwise the step's ``reply`` is added.
        form: ``"messages"`` (``{"messages": [...]}``, loss on the assistant's turns) or
            ``"prompt-completion"`` (``{"prompt": [...], "completion": [...]}``, loss on the completion).
        keep: Which steps to take; all by default.
        names: Add ``trajectory``, ``task`` and ``step`` to each row.

    Raises:
        RunError: A rendered message has another form; the message names trajectory and step.
        ValueError: The form is unknown.

    Example:
        >>> step = {"step": 0, "reply": "Action: List Files"}
        >>> rows = conversational_rows(
        ...     [{"id": "a", "task": "digits", "steps": [step]}],
        ...     lambda step: [{"role": "user", "content": "Go."}], form="prompt-completion")
        >>> next(rows)["completion"]
        [{'role': 'assistant', 'content': 'Action: List Files'}]
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown: choose one of {', '.join(FORMS)}")
    for row in trajectories:
        for step in row["steps"]:
            if keep is not None and not keep(step):
                continue
            messages = _messages(render(step), f"trajectory {row['id']!r}, step {step['step']}")
            if messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": _repair(step["reply"])})
            out: dict = {"messages": messages}
            if form == "prompt-completion":
                out = {"prompt": messages[:-1], "completion": messages[-1:]}
            if names:
                out |= {"trajectory": row["id"], "task": row["task"], "step": step["step"]}
            yield out


def _messages(rendered: Messages, where: str) -> list[dict]:
    messages = []
    for message in rendered:
        usable = isinstance(message, Mapping) and all(
            isinstance(message.get(k), str) for k in ("role", "content")
        )
        if not usable or message["role"] not in ("system", "user", "assistant", "tool"):
            raise RunError(
                f"{where}: a message must have a role (system, user, assistant, tool) and a text content, "
                f"not {message!r:.80}",
                cure="correct the render function",
            )
        messages.append({"role": message["role"], "content": _repair(message["content"])})
    if not messages or (len(messages) == 1 and messages[0]["role"] == "assistant"):
        raise RunError(f"{where}: the prompt has no message", cure="correct the render function")
    return messages


def write_conversational(path: str | Path, rows: Iterable[Mapping]) -> int:
    """Write rows as JSONL, atomically, and return their number; ``load_dataset("json", ...)`` reads them."""
    lines = [json.dumps(row, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)


def write_parquet(path: str | Path, trajectories: Iterable[Mapping]) -> int:
    """Write trajectories as one Parquet table with one row per step, atomically; return the number of rows.

    The columns of the trajectory are repeated on each of its rows. Nested values (state, ideas, arguments,
    and fields that the schema does not name) are JSON text. Text that is no valid Unicode cannot be stored:
    its broken characters become U+FFFD, and the log tells how many values were touched.

    Raises:
        RunError: A trajectory breaks the format; the message names the field.
    """
    import pyarrow.parquet

    schema, rows, repaired = _parquet_schema(), [], Counter()
    for number, row in enumerate(trajectories, 1):
        validate_row(row, where=f"trajectory {number}")
        own = {name: value for name, value in row.items() if name not in ("schema", "steps", "final")}
        head = {"row": number} | _flat(own, *_PARTS[0], repaired) | _flat(row["final"], *_PARTS[1], repaired)
        rows += [head | _flat(step, *_PARTS[2], repaired) for step in row["steps"] or [None]]
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue())
    if repaired["texts"]:
        logger.warning("%s: %d values held broken Unicode, replaced by U+FFFD", path, repaired["texts"])
    return table.num_rows


def read_parquet(path: str | Path) -> list[dict]:
    """Return the trajectories of a table that `write_parquet` made, equal to those that went in.

    An optional field that was absent comes back as null.

    Raises:
        RunError: There is no such file, or it is not such a table.
    """
    import pyarrow
    import pyarrow.parquet

    cure = "make it again from the JSONL file (write_parquet)"
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing", cure=cure) from None
    except (pyarrow.ArrowException, OSError) as exc:
        raise RunError(f"{path} is not a readable Parquet file ({type(exc).__name__})", cure=cure) from None
    found = (table.schema.metadata or {}).get(b"schema", b"").decode("utf-8", "replace")
    if found != SCHEMA_NAME:
        raise RunError(f"{path} holds the format {found!r}, not {SCHEMA_NAME!r}", cure=cure)
    rows: dict[int, dict] = {}
    for flat in table.to_pylist():
        if flat["row"] not in rows:
            final = None if flat["final_stop"] is None else _nested(flat, *_PARTS[1])
            head = {"schema": SCHEMA_NAME, **_nested(flat, *_PARTS[0])}
            rows[flat["row"]] = head | {"steps": [], "final": final}
        if flat["step"] is not None:
            rows[flat["row"]]["steps"].append(_nested(flat, *_PARTS[2]))
    return list(rows.values())


def _parquet_schema() -> pyarrow.Schema:
    import pyarrow as pa

    kinds = {"text": pa.string(), "json": pa.string(), "number": pa.float64(), "whole": pa.int64()}
    kinds["flag"] = pa.bool_()
    fields = [("row", pa.int64())]
    for prefix, columns, extra in _PARTS:
        fields += [(prefix + name, kinds[kind]) for name, kind in columns.items()]
        fields.append((extra, pa.string()))
    return pa.schema(fields, metadata={"schema": SCHEMA_NAME})


def _flat(part: Mapping | None, prefix: str, columns: dict[str, str], extra: str, repaired: Counter) -> dict:
    """Return the cells of a trajectory, its end or a step; none where there is none."""
    if part is None:
        return {}
    rest = {name: value for name, value in part.items() if name not in columns}
    cells = {prefix + name: _cell(part.get(name), kind, repaired) for name, kind in columns.items()}
    return cells | {extra: _json(rest) if rest else None}


def _cell(value: object, kind: str, repaired: Counter) -> object:
    if kind == "json":
        return _json(value)
    if kind == "text" and value is not None:
        clean = _repair(value)
        repaired["texts"] += clean != value
        return clean
    return int(value) if kind == "whole" else value


def _nested(flat: Mapping, prefix: str, columns: dict[str, str], extra: str) -> dict:
    """Return what `_flat` was given."""
    part = {name: flat[prefix + name] for name in columns}
    part |= {name: json.loads(part[name]) for name, kind in columns.items() if kind == "json"}
    return part | json.loads(flat[extra] or "{}")


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)  # ASCII only: any text survives


def _repair(text: str) -> str:
    """Return the text as valid Unicode: halves of surrogate pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
