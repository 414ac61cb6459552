"""Trajectories for other tools: TRL's conversational rows, and a flat Parquet table.

The JSONL file stays the record; both forms here are made from it, and from the Parquet table the record can
be made again (`read_parquet`). What a line holds is in `schema`. Nothing here selects, weighs or tokenises.
"""

from __future__ import annotations

import io
import json
import logging
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

# Columns of the Parquet table. A trajectory without steps is one row whose step is null.
_ROW_TEXT = ("id", "task", "split", "source")
_STEP_TEXT = ("reply", "action", "observation", "outcome", "reason", "script_before", "script_after", "tier")
_STEP_NUMBER = ("score_before", "score_after", "reward", "visible_metric", "seconds")
_STEP_JSON = ("state", "action_input")
_FINAL_NUMBER = ("feedback_last", "report_last", "feedback_best", "report_best", "report_start")


def read_trajectories(path: str | Path) -> list[dict]:
    """Return the trajectories of a JSONL file, each one checked.

    Raises:
        RunError: There is no file, a line is not JSON, or a trajectory breaks the format; the message names
            the file, the row and the field.
    """
    rows, bad = read_jsonl(path)
    if bad:
        raise RunError(
            f"{path} has {bad} lines that are not JSON objects",
            cure="delete these lines (a kill can leave one at the end), or collect again",
        )
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
        trajectories: Rows of a trajectory file.
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

    repaired = [0]
    columns: dict[str, list] = {field.name: [] for field in _parquet_schema()}
    for number, row in enumerate(trajectories, 1):
        validate_row(row, where=f"trajectory {number}")
        head = _flat_head(number, row, repaired)
        for step in row["steps"] or [None]:
            for name, value in (head | _flat_step(step, repaired)).items():
                columns[name].append(value)
    table = pyarrow.table(columns, schema=_parquet_schema())
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue())
    if repaired[0]:
        logger.warning("%s: %d values held broken Unicode, replaced by U+FFFD", path, repaired[0])
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
        row = rows.get(flat["row"])
        if row is None:
            row = rows[flat["row"]] = _head_of(flat)
        if flat["step"] is not None:
            row["steps"].append(_step_of(flat))
    return list(rows.values())


def _parquet_schema() -> pyarrow.Schema:
    import pyarrow as pa

    fields = [("row", pa.int64()), *((name, pa.string()) for name in _ROW_TEXT), ("seed", pa.int64())]
    fields += [("ideas", pa.string()), ("extra", pa.string())]
    fields += [(f"final_{name}", pa.float64()) for name in _FINAL_NUMBER]
    fields += [("final_stop", pa.string()), ("final_extra", pa.string()), ("step", pa.int64())]
    fields += [(name, pa.string()) for name in _STEP_TEXT]
    fields += [(name, pa.float64()) for name in _STEP_NUMBER]
    fields += [
        ("cache_hit", pa.bool_()),
        *((name, pa.string()) for name in _STEP_JSON),
        ("step_extra", pa.string()),
    ]
    return pa.schema(fields, metadata={"schema": SCHEMA_NAME})


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)  # ASCII only: any text survives


def _repair(text: str) -> str:
    """Return the text as valid Unicode: halves of surrogate pairs are joined, lone ones become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: str | None, repaired: list[int]) -> str | None:
    if value is None:
        return None
    clean = _repair(value)
    repaired[0] += clean != value
    return clean


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _extra(value: Mapping, known: Sequence[str]) -> str | None:
    rest = {name: item for name, item in value.items() if name not in known}
    return _json(rest) if rest else None


def _flat_head(number: int, row: Mapping, repaired: list[int]) -> dict:
    final = row["final"] or {}
    known = ("schema", *_ROW_TEXT, "seed", "ideas", "steps", "final")
    flat = {
        "row": number,
        "seed": int(row["seed"]),
        "ideas": _json(row["ideas"]),
        "extra": _extra(row, known),
    }
    flat |= {name: _text(row[name], repaired) for name in _ROW_TEXT}
    flat |= {f"final_{name}": _number(final.get(name)) for name in _FINAL_NUMBER}
    flat["final_stop"] = _text(final.get("stop"), repaired)
    flat["final_extra"] = _extra(final, (*_FINAL_NUMBER, "stop"))
    return flat


def _flat_step(step: Mapping | None, repaired: list[int]) -> dict:
    names = ("step", *_STEP_TEXT, *_STEP_NUMBER, "cache_hit", *_STEP_JSON)
    if step is None:
        return dict.fromkeys((*names, "step_extra"))
    flat: dict = {
        "step": int(step["step"]),
        "cache_hit": step["cache_hit"],
        "step_extra": _extra(step, names),
    }
    flat |= {name: _text(step.get(name), repaired) for name in _STEP_TEXT}
    flat |= {name: _number(step.get(name)) for name in _STEP_NUMBER}
    flat |= {name: _json(step[name]) for name in _STEP_JSON}
    return flat


def _head_of(flat: Mapping) -> dict:
    row = {"schema": SCHEMA_NAME, **{name: flat[name] for name in _ROW_TEXT}, "seed": flat["seed"]}
    row |= {"ideas": json.loads(flat["ideas"]), "steps": [], "final": None}
    if flat["final_stop"] is not None:
        row["final"] = {name: flat[f"final_{name}"] for name in _FINAL_NUMBER} | {"stop": flat["final_stop"]}
        row["final"] |= json.loads(flat["final_extra"] or "{}")
    return row | json.loads(flat["extra"] or "{}")


def _step_of(flat: Mapping) -> dict:
    names = ("step", *_STEP_TEXT, *_STEP_NUMBER, "cache_hit")
    step = {name: flat[name] for name in names} | {name: json.loads(flat[name]) for name in _STEP_JSON}
    return step | json.loads(flat["step_extra"] or "{}")
