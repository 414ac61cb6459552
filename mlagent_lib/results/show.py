"""Pages a person wants to read: a trajectory, the source of a function, a small table.

Everything that comes from a policy, a script or a file is escaped, control characters and text direction
marks included: a reply cannot put markup, a script or a disguised line of code on the page. A `Shown`
displays itself in a notebook and prints as plain text elsewhere; nothing here needs IPython.
"""

from __future__ import annotations

import difflib
import html
import inspect
import io
import json
import keyword
import re
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path

import pandas as pd

from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.results.style import number

__all__ = [
    "Shown",
    "diff_html",
    "escape",
    "lines_of",
    "reply_fields",
    "reply_pieces",
    "show_source",
    "show_trajectory",
    "table_html",
    "visible",
]

CSS = (Path(__file__).with_name("show.css")).read_text(encoding="utf-8")
FIELDS = ("Reflection", "Research Plan and Status", "Fact Check", "Thought", "Action", "Action Input")
MARKS = {"edited": "✓", "neutral": "○", "corner": "◔", "error": "✕", "invalid": "⊘", "unscored": "?"}
MAX_FIELD_CHARS = 4000
MAX_LINES = 160
# C0 and C1 controls but tab and newline, the marks that reorder what follows them, line breaks that only some
# programs see, spaces, letters and tags without width, and halves of surrogate pairs, which no file can hold
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e007f]"
)
_FIELD = re.compile(rf"^[ \t]*({'|'.join(re.escape(name) for name in FIELDS)})[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, repr=False)
class Shown:
    """Something to look at: HTML for a notebook, plain text for a terminal.

    Attributes:
        html: Self-contained markup, with its own style.
        text: The same as plain text, made `visible`.
    """

    html: str
    text: str

    def __post_init__(self):
        object.__setattr__(self, "text", visible(self.text))

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def visible(text: object) -> str:
    r"""Return text with every character that is not seen, or reorders others, as a visible escape.

    Example:
        >>> visible("a\u202eb\x00")
        'a\\u202eb\\u0000'
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text with what is not seen made `visible`: a line ends where Python ends one.

    Example:
        >>> lines_of("# a\u2028b\r\nc\n")
        ['# a\\u2028b', 'c']
    """
    return visible(text.replace("\r\n", "\n")).splitlines()


def escape(text: object) -> str:
    r"""Return text as HTML that shows it and does nothing; unseen characters become visible escapes.

    Example:
        >>> escape("<b>\u202e&")
        '&lt;b&gt;\\u202e&amp;'
    """
    return html.escape(visible(text), quote=True)


def _page(body: str) -> str:
    return f'<style>{CSS}</style><div class="mla-root">{body}</div>'


def reply_pieces(reply: str) -> list[tuple[str, str]]:
    r"""Return a reply cut before its fields: (name, text with the name), which together are the reply.

    Text before the first field has the name "".

    Example:
        >>> reply_pieces('so\nThought: trees\nAction: List Files')
        [('', 'so\n'), ('Thought', 'Thought: trees\n'), ('Action', 'Action: List Files')]
    """
    found = list(_FIELD.finditer(reply))
    starts = [match.start() for match in found] + [len(reply)]
    before = [("", reply[: starts[0]])] if starts[0] else []
    return before + [(m[1], reply[m.start() : end]) for m, end in zip(found, starts[1:], strict=True)]


def reply_fields(reply: str) -> dict[str, str]:
    r"""Return the fields of a reply in the order written; a reply without any gives an empty dictionary.

    For display only: what counts as an action is decided by ``environment.actions``.

    Example:
        >>> reply_fields('Thought: trees\nAction: List Files\nAction Input: {}')
        {'Thought': 'trees', 'Action': 'List Files', 'Action Input': '{}'}
    """
    pieces = reply_pieces(reply)
    if not any(name for name, _ in pieces):
        return {}
    fields: dict[str, str] = {}
    for name, text in pieces:
        value = (text.partition(":")[2] if name else text).strip()
        if name:
            fields[name] = f"{fields[name]}\n(again) {value}" if name in fields else value
        elif value:
            fields["(before the fields)"] = value
    return fields


def _cut(text: str, limit: int = MAX_FIELD_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n… cut here, {len(text) - limit} characters more"


def _pre(lines: Sequence[tuple[str, str]], *, wrap: bool = False) -> str:
    """Return (class, line) pairs as a block, cut with a stated number of lines left out."""
    shown = [f'<span class="mla-l {name}">{escape(line) or " "}</span>' for name, line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        shown.append(f'<span class="mla-l mla-hunk">… cut here, {len(lines) - MAX_LINES} lines more</span>')
    return f'<pre class="mla-pre{" mla-wrap" if wrap else ""}">{"".join(shown)}</pre>'


def _diff(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(lines_of(before), lines_of(after), "before", "after", lineterm="")
    return list(lines)[2:]


def diff_html(before: str, after: str) -> str:
    """Return a unified diff as an HTML block: signs at the line starts, colour as a help only."""
    kinds = {"+": "mla-add", "-": "mla-del", "@": "mla-hunk"}
    return _pre([(kinds.get(line[:1], ""), line) for line in _diff(before, after)])


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _score(value: object) -> str:
    return f"{value:.4g}".replace("-", "−") if _is_number(value) else "–"


def _change(before: object, after: object, scale: TaskScale | None) -> str:
    """Return how a score moved, in words: which way is better depends on the metric."""
    if not (_is_number(before) and _is_number(after)):
        return ""
    if before == after:
        return "= same"
    if scale is None:
        return "▲ up" if after > before else "▼ down"
    arrow = "▲" if after > before else "▼"
    return f"{arrow} {'better' if (after > before) == scale.greater_is_better else 'worse'}"


def outcome_of(step: Mapping) -> str:
    """Return the outcome of a step as a lower-case word, from a row or an enumeration."""
    return str(getattr(step["outcome"], "value", step["outcome"])).lower()


def _score_text(step: Mapping, scale: TaskScale | None) -> str:
    before, after = step.get("score_before"), step.get("score_after")
    moved = f" → {_score(after)}  {_change(before, after, scale)}" if _is_number(after) else ""
    return f"score {_score(before)}{moved}"


def _reward_text(step: Mapping) -> str:
    reward = step.get("reward")
    return f"reward {number(reward, 3)}" if _is_number(reward) else "no reward"


def _arguments(text: str) -> str:
    """Return Action Input as names and values where it is a JSON object, else as written."""
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return escape(_cut(text))
    pairs = (f"<dt>{escape(k)}</dt><dd>{escape(_cut(str(v)))}</dd>" for k, v in values.items())
    return f'<dl class="mla-args">{"".join(pairs)}</dl>'


def _step_html(step: Mapping, scale: TaskScale | None) -> str:
    outcome, reply = outcome_of(step), str(step.get("reply") or "")
    chip = f"{MARKS.get(outcome, '')} {outcome}" + (f": {step['reason']}" if step.get("reason") else "")
    notes = [f"{step['seconds']:.1f} s"] if _is_number(step.get("seconds")) else []
    notes += ["from the cache"] if step.get("cache_hit") else []
    parts = [
        f'<section class="mla-step"><div class="mla-head">'
        f'<span class="mla-title">Step {escape(step["step"])}: '
        f"{escape(step.get('action') or 'no action')}</span>"
        f'<span class="mla-chip mla-{escape(outcome)}">{escape(chip)}</span>'
        f'<span class="mla-score">{escape(_score_text(step, scale))}</span>'
        f'<span class="mla-score">{escape(_reward_text(step))}</span>'
        f'<span class="mla-soft">{escape(" · ".join(notes))}</span></div>'
    ]
    fields = reply_fields(reply)
    if fields:
        rows = (
            f"<dt>{escape(name)}</dt><dd>{_arguments(v) if name == 'Action Input' else escape(_cut(v))}</dd>"
            for name, v in fields.items()
        )
        parts.append(f'<dl class="mla-fields">{"".join(rows)}</dl>')
    else:
        parts.append(_pre([("", line) for line in lines_of(_cut(reply)) or ["(empty reply)"]], wrap=True))
    before, after = step.get("script_before") or "", step.get("script_after") or ""
    if before != after:
        parts.append(diff_html(before, after))
    lines = lines_of(str(step.get("observation") or ""))
    if lines:
        folded = _pre([("", line) for line in lines], wrap=True)
        parts.append(f"<details><summary>Feedback, {len(lines)} lines</summary>{folded}</details>")
    return "".join(parts) + "</section>"


def _path(row: Mapping) -> list[str]:
    """Return the scores along a trajectory: start, then each step's score or its outcome."""
    steps = row.get("steps", ())
    found = [_score(steps[0].get("score_before"))] if steps else []
    return found + [
        _score(s["score_after"]) if _is_number(s.get("score_after")) else outcome_of(s) for s in steps
    ]


def _facts(row: Mapping, scale: TaskScale | None) -> str:
    direction = ""
    if scale:
        direction = f"{scale.metric}, {'higher' if scale.greater_is_better else 'lower'} is better"
    parts = [row.get("split"), direction, f"policy: {row['source']}", f"seed {row.get('seed', 0)}"]
    return " · ".join(str(part) for part in parts if part)


def _final(row: Mapping) -> str:
    final = row.get("final") or {}
    stop = f"stopped: {final.get('stop') or 'not said'}"
    if final.get("report_last") is None:  # only the evaluation grades on the report labels
        return stop
    ends = f"report score {_score(final.get('report_start'))} → {_score(final['report_last'])}"
    return f"{ends}, best by feedback {_score(final.get('report_best'))}; {stop}"


def show_trajectory(row: Mapping, scale: TaskScale | None = None, *, steps: int | None = None) -> Shown:
    """Return one trajectory to read: each step's fields, diff, feedback, outcome, score and reward.

    Args:
        row: One row of a ``trajectories.jsonl``.
        scale: Metric and direction of the task (`TaskScale.of(task)`); without it a change of the score is
            shown as up or down, not as better or worse.
        steps: Show only so many steps, the first ones.
    """
    chosen = list(row.get("steps", ()))[:steps]
    left = len(row.get("steps", ())) - len(chosen)
    ideas = [f"{idea.get('axis', '')}: {idea.get('instruction', '')}" for idea in row.get("ideas") or ()]
    body = [
        f'<article class="mla-card"><div class="mla-head">'
        f'<span class="mla-title">{escape(row["task"])}</span>'
        f'<span class="mla-soft">{escape(_facts(row, scale))}</span></div>',
        f'<div class="mla-path">scores on the feedback labels: {escape(" → ".join(_path(row)))}</div>',
        f'<div class="mla-path mla-soft">{escape(_final(row))}</div>',
    ]
    if ideas:
        body.append(
            "Ideas given:<ul class='mla-ideas'>" + "".join(f"<li>{escape(i)}</li>" for i in ideas) + "</ul>"
        )
    body += [_step_html(step, scale) for step in chosen]
    body.append(f'<p class="mla-soft">{left} more steps not shown</p></article>' if left else "</article>")
    return Shown(_page("".join(body)), _plain(row, chosen, scale, ideas, left))


def _plain(
    row: Mapping, steps: Sequence[Mapping], scale: TaskScale | None, ideas: list[str], left: int
) -> str:
    lines = [f"{row['task']} ({_facts(row, scale)})", f"scores: {' → '.join(_path(row))}", _final(row)]
    lines += [f"idea: {idea}" for idea in ideas]
    for step in steps:
        chip = outcome_of(step) + (f" ({step['reason']})" if step.get("reason") else "")
        action = step.get("action") or "no action"
        lines += [
            "",
            f"-- step {step['step']}: {action} | {chip} | {_score_text(step, scale)} | {_reward_text(step)}",
        ]
        fields = reply_fields(str(step.get("reply") or "")) or {"Reply": str(step.get("reply") or "")}
        lines += [f"{name}: {_cut(value)}" for name, value in fields.items()]
        lines += _diff(step.get("script_before") or "", step.get("script_after") or "")[:MAX_LINES]
    lines += [f"... {left} more steps"] if left else []
    return "\n".join(lines)


def show_source(*objects: object) -> Shown:
    """Return the source of functions or classes, as it runs, with light highlighting.

    Raises:
        TypeError: If an object has no Python source.
    """
    blocks, texts = [], []
    for item in objects:
        lines, start = inspect.getsourcelines(item)
        source = textwrap.dedent("".join(lines)).rstrip("\n")
        place = f"{getattr(item, '__module__', '') or item.__name__}, line {start}"
        blocks.append(
            f'<div class="mla-soft">{escape(place)}</div><pre class="mla-pre">{_coloured(source)}</pre>'
        )
        texts.append(f"# {place}\n{source}")
    return Shown(_page("".join(blocks)), "\n\n".join(texts))


def _coloured(source: str) -> str:
    """Return Python source as lines of spans; a text that cannot be tokenised stays plain."""
    marks: dict[int, list[tuple[int, int, str]]] = {}
    kinds = {tokenize.STRING: "mla-str", tokenize.NUMBER: "mla-num", tokenize.COMMENT: "mla-com"}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            name = (
                "mla-kw"
                if token.type == tokenize.NAME and keyword.iskeyword(token.string)
                else kinds.get(token.type)
            )
            if name:
                for line in range(token.start[0], token.end[0] + 1):
                    begin = token.start[1] if line == token.start[0] else 0
                    end = token.end[1] if line == token.end[0] else 10**6
                    marks.setdefault(line, []).append((begin, end, name))
    except (tokenize.TokenError, SyntaxError):
        marks = {}
    out = []
    for index, text in enumerate(source.split("\n"), start=1):
        shown, at = "", 0
        for begin, end, name in marks.get(index, ()):
            shown += f'{escape(text[at:begin])}<span class="{name}">{escape(text[begin:end])}</span>'
            at = end
        out.append(f'<span class="mla-l">{shown + escape(text[at:])}</span>')
    return "".join(out)


def _cell(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and not isfinite(value)) or value is pd.NA:
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Real) and not float(value).is_integer():
        return number(float(value), digits)
    return str(value).replace("-", "−", 1) if isinstance(value, Real) else str(value)


def table_markup(df: pd.DataFrame, *, caption: str = "", digits: int = 3) -> str:
    """Return a table as bare markup (no style), for pages that bring `CSS` themselves."""
    numeric = {
        c for c in df if pd.api.types.is_numeric_dtype(df[c]) and not pd.api.types.is_bool_dtype(df[c])
    }
    side = {c: ' class="mla-n"' if c in numeric else "" for c in df}
    head = "".join(f'<th scope="col"{side[c]}>{escape(c)}</th>' for c in df)
    rows = []
    for values in df.itertuples(index=False, name=None):
        texts = [_cell(value, digits) for value in values]
        kinds = [
            side[c] or (' class="mla-s"' if len(text) < 28 else "") for c, text in zip(df, texts, strict=True)
        ]
        cells = (f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, texts, strict=True))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="mla-scroll" tabindex="0"><table class="mla-table">{title}{body}</table></div>'


def table_html(df: pd.DataFrame, *, caption: str = "", digits: int = 3) -> Shown:
    """Return a small table to look at: numbers right-aligned and rounded, missing values as a dash.

    Args:
        df: The table; its index is not shown.
        caption: Line above the table.
        digits: Decimals of numbers that are not whole.
    """
    return Shown(_page(table_markup(df, caption=caption, digits=digits)), df.to_string(index=False))
