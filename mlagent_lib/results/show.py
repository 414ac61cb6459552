"""Pages a person wants to read: a trajectory, the source of a function, a small table.

Everything that comes from a policy, a script or a file is escaped, control characters and text direction
marks included: a reply cannot put markup, a script or a disguised line of code on the page. A `Shown`
displays itself in a notebook and prints as plain text elsewhere; nothing here needs IPython.
"""

from __future__ import annotations

import difflib
import html
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path

import pandas as pd
from pygments.lexers.python import PythonLexer  # comes with IPython and nbconvert
from pygments.token import Comment, Keyword, Number, String

from mlagent_lib.environment.actions import FIELDS
from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.results.steps import outcome_of
from mlagent_lib.results.style import number

CSS = (Path(__file__).with_name("show.css")).read_text(encoding="utf-8")
MARKS = {
    "edited": "✓",
    "undone": "↶",
    "unchanged": "=",
    "neutral": "○",
    "corner": "◔",
    "error": "✕",
    "invalid": "⊘",
    "unscored": "?",
}
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
    """Something to look at: self-contained HTML for a notebook, `visible` plain text for a terminal."""

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


def wrapped(tag: str, markup: str, kind: str = "") -> str:
    """Return markup in an element of the class ``mla-<kind>``."""
    return f'<{tag} class="mla-{kind}">{markup}</{tag}>' if kind else f"<{tag}>{markup}</{tag}>"


def element(tag: str, text: object, kind: str = "") -> str:
    """Return text, as text, in an element of the class ``mla-<kind>``."""
    return wrapped(tag, escape(text), kind)


def items(texts: Iterable[str], kind: str = "") -> str:
    """Return texts as a list, in an element of the class ``mla-<kind>``."""
    return wrapped("ul", "".join(element("li", text) for text in texts), kind)


def folded(summary: str, markup: str) -> str:
    """Return markup that a click on the summary shows."""
    return f"<details>{element('summary', summary)}{markup}</details>"


def terms(pairs: Iterable[tuple[str, str]], kind: str) -> str:
    """Return a list of names, as text, each with its markup."""
    return wrapped("dl", "".join(f"<dt>{escape(name)}</dt><dd>{body}</dd>" for name, body in pairs), kind)


def page(body: str) -> str:
    """Return markup together with the style that it needs."""
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
        shown.append(element("span", f"… cut here, {len(lines) - MAX_LINES} lines more", "l mla-hunk"))
    return wrapped("pre", "".join(shown), "pre mla-wrap" if wrap else "pre")


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
    up = after > before
    if scale is None:
        return "▲ up" if up else "▼ down"
    return f"{'▲' if up else '▼'} {'better' if up == scale.greater_is_better else 'worse'}"


def _earned(step: Mapping, scale: TaskScale | None) -> tuple[str, str]:
    """Return in words how a step moved the score, and its reward."""
    before, after, reward = (step.get(name) for name in ("score_before", "score_after", "reward"))
    moved = f" → {_score(after)}  {_change(before, after, scale)}" if _is_number(after) else ""
    paid = f"reward {number(reward, 3)}" if _is_number(reward) else "no reward"
    return f"score {_score(before)}{moved}", paid


def _arguments(text: str) -> str:
    """Return Action Input as names and values where it is a JSON object, else as written."""
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return escape(_cut(text))
    return terms(((name, escape(_cut(str(value)))) for name, value in values.items()), "args")


def _step_html(step: Mapping, scale: TaskScale | None) -> str:
    outcome, reply = outcome_of(step), str(step.get("reply") or "")
    chip = f"{MARKS.get(outcome, '')} {outcome}" + (f": {step['reason']}" if step.get("reason") else "")
    notes = [f"{step['seconds']:.1f} s"] if _is_number(step.get("seconds")) else []
    notes += ["from the cache"] if step.get("cache_hit") else []
    head = element("span", f"Step {step['step']}: {step.get('action') or 'no action'}", "title")
    head += element("span", chip, f"chip mla-{escape(outcome)}")
    head += "".join(element("span", text, "score") for text in _earned(step, scale))
    parts = [wrapped("div", head + element("span", " · ".join(notes), "soft"), "head")]
    fields = reply_fields(reply)
    if fields:
        shown = {name: escape(_cut(text)) for name, text in fields.items()}
        if "Action Input" in fields:
            shown["Action Input"] = _arguments(fields["Action Input"])
        parts.append(terms(shown.items(), "fields"))
    else:
        parts.append(_pre([("", line) for line in lines_of(_cut(reply)) or ["(empty reply)"]], wrap=True))
    before, after = step.get("script_before") or "", step.get("script_after") or ""
    parts += [diff_html(before, after)] if before != after else []
    lines = [("", line) for line in lines_of(str(step.get("observation") or ""))]
    parts += [folded(f"Feedback, {len(lines)} lines", _pre(lines, wrap=True))] if lines else []
    return wrapped("section", "".join(parts), "step")


def _head(row: Mapping, scale: TaskScale | None) -> tuple[str, str, str]:
    """Return what a trajectory is, the scores along it (or outcomes), and how it ended."""
    steps, final = row.get("steps", ()), row.get("final") or {}
    better = f"{'higher' if scale.greater_is_better else 'lower'} is better" if scale else ""
    facts = [row.get("split"), f"{scale.metric}, {better}" if scale else ""]
    facts += [f"policy: {row['source']}", f"seed {row.get('seed', 0)}"]
    path = [_score(steps[0].get("score_before"))] if steps else []
    path += [_score(s["score_after"]) if _is_number(s.get("score_after")) else outcome_of(s) for s in steps]
    end = f"stopped: {final.get('stop') or 'not said'}"
    if final.get("report_last") is not None:  # only the evaluation grades on the report labels
        start, last, kept = (_score(final.get(f"report_{name}")) for name in ("start", "last", "kept"))
        end = f"report score {start} → {last}, best by validation {kept}; {end}"
    return " · ".join(str(fact) for fact in facts if fact), " → ".join(path), end


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
    facts, path, end = _head(row, scale)
    body = wrapped("div", element("span", row["task"], "title") + element("span", facts, "soft"), "head")
    body += element("div", f"scores on the feedback labels: {path}", "path")
    body += element("div", end, "path mla-soft")
    if ideas:
        body += "Ideas given:" + items(ideas, "ideas")
    body += "".join(_step_html(step, scale) for step in chosen)
    body += element("p", f"{left} more steps not shown", "soft") if left else ""
    lines = [f"{row['task']} ({facts})", f"scores: {path}", end, *(f"idea: {idea}" for idea in ideas)]
    lines += [line for step in chosen for line in _step_lines(step, scale)]
    lines += [f"... {left} more steps"] if left else []
    return Shown(page(wrapped("article", body, "card")), "\n".join(lines))


def _step_lines(step: Mapping, scale: TaskScale | None) -> list[str]:
    chip = outcome_of(step) + (f" ({step['reason']})" if step.get("reason") else "")
    what = f"-- step {step['step']}: {step.get('action') or 'no action'}"
    reply = str(step.get("reply") or "")
    fields = [f"{name}: {_cut(text)}" for name, text in (reply_fields(reply) or {"Reply": reply}).items()]
    changed = _diff(step.get("script_before") or "", step.get("script_after") or "")[:MAX_LINES]
    return ["", " | ".join((what, chip, *_earned(step, scale))), *fields, *changed]


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
        blocks.append(element("div", place, "soft"))
        blocks.append(wrapped("pre", wrapped("span", _coloured(source), "l"), "pre"))
        texts.append(f"# {place}\n{source}")
    return Shown(page("".join(blocks)), "\n\n".join(texts))


def _coloured(source: str) -> str:
    """Return Python source with its keywords, texts, numbers and comments marked."""
    kinds = {Keyword: "kw", String: "str", Number: "num", Comment: "com"}
    shown = ""
    for token, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(visible(source)):
        kind = next((kind for root, kind in kinds.items() if token in root), None)
        shown += element("span", text, kind) if kind else escape(text)
    return shown


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
    kinds = df.dtypes.map(pd.api.types.is_numeric_dtype) & ~df.dtypes.map(pd.api.types.is_bool_dtype)
    numeric = ["n" if kind else "" for kind in kinds]
    head = "".join(element("th", name, kind) for name, kind in zip(df, numeric, strict=True))
    head = head.replace("<th", '<th scope="col"')  # a name's own sign is escaped
    rows = ""
    for values in df.itertuples(index=False, name=None):
        texts = [_cell(value, digits) for value in values]
        marked = [kind or ("s" if len(text) < 28 else "") for kind, text in zip(numeric, texts, strict=True)]
        cells = (element("td", text, kind) for kind, text in zip(marked, texts, strict=True))
        rows += wrapped("tr", "".join(map(_with_name, cells, df)))
    title = element("caption", caption) if caption else ""
    body = f"{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="mla-scroll" tabindex="0">{wrapped("table", body, "table")}</div>'


def _with_name(cell: str, name: object) -> str:
    """Return a cell with the name of its column, which stands beside it where the screen is narrow."""
    return cell.replace(">", f' data-name="{escape(name)}">', 1)


def table_html(df: pd.DataFrame, *, caption: str = "", digits: int = 3) -> Shown:
    """Return a small table to look at: numbers right-aligned and rounded, missing values as a dash.

    The index is not shown; ``digits`` are the decimals of numbers that are not whole.
    """
    return Shown(page(table_markup(df, caption=caption, digits=digits)), df.to_string(index=False))
