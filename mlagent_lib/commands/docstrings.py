"""The docstrings of the package as HTML pages, one a module, read from the source without importing it.

The form is the one used throughout (Google style): a first sentence, paragraphs, then the sections Args,
Attributes, Returns, Raises and Example. `problems` tells where a docstring and its function disagree.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.files import write_text
from mlagent_lib.results.show import visible

PACKAGE = Path(__file__).parents[1]
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")
_HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):$", re.MULTILINE)
_MARKS = re.compile(r"``(.+?)``|`([^`]+)`|(?<![\w*])\*(\w[^*]*)\*(?![\w*])")
_ENTRY = re.compile(r"^(\*{0,2}[\w.]+): ", re.MULTILINE)
_STYLE = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --mark: #0a6cbd; }
@media (prefers-color-scheme: dark) { :root { --mark: #6cb6ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
a { color: var(--mark); text-decoration: none; } a:hover { text-decoration: underline; }
code, pre { font: 0.9em/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: 0.6rem 0.8rem; border-radius: 4px; overflow-x: auto; }
section { border-top: 1px solid var(--line); margin-top: 1.6rem; }
section section { border: 0; margin: 0 0 0 1.4rem; }
h1 { font-size: 1.5rem; } h2, h3 { font-size: 1rem; font-family: ui-monospace, monospace; }
h2, h3 { font-weight: 600; overflow-wrap: anywhere; } h4 { margin: 0.8rem 0 0.2rem; font-size: 0.9rem; }
dl { margin: 0 0 0 1rem; } dt { font-family: ui-monospace, monospace; font-size: 0.9em; }
dd { margin: 0 0 0.3rem 1.4rem; }
"""


@dataclass(frozen=True)
class Entry:
    """One public class, function or method.

    Attributes:
        name: With its class, e.g. ``Runner.run``.
        head: What its definition says, e.g. ``run(self, request: RunRequest) -> RunResult``.
        text: Its docstring.
        parameters: Names of its parameters, or of those of ``__init__``; None for a class without one.
        returns: Whether it gives anything back.
        inner: Methods of a class.
    """

    name: str
    head: str
    text: str
    parameters: tuple[str, ...] | None
    returns: bool
    inner: tuple[Entry, ...] = ()


def read_modules(package: Path = PACKAGE) -> dict[str, tuple[str, tuple[Entry, ...]]]:
    """Return docstring and public entries of every module by its dotted name, in alphabetical order.

    Args:
        package: Folder of a package.

    Example:
        >>> text, entries = read_modules()["mlagent_lib.reward"]
        >>> [entry.name for entry in entries]
        ['step_reward', 'sigmoid']
    """
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not parts[-1].startswith("_") or parts[-1] == "__init__":
            found[name] = (ast.get_docstring(tree) or "", tuple(_entries(tree.body)))
    return found


def problems(package: Path = PACKAGE) -> list[str]:
    """Return one line for each docstring that is missing or says what its function does not do.

    Args:
        package: Folder of a package.
    """
    found = []
    for module, (text, entries) in read_modules(package).items():
        if not text:
            found.append(f"{module}: no docstring")
        for entry in _with_methods(entries):
            found += [f"{module}.{entry.name}: {what}" for what in _problems(entry)]
    return found


def write_docs(out: str | Path, package: Path = PACKAGE) -> int:
    """Write ``index.html`` and one page a module into ``out``; return the number of modules.

    Args:
        out: Folder; made when missing.
        package: Folder of a package.
    """
    modules = read_modules(package)
    links = _links(modules)
    rows = []
    for name, (text, entries) in modules.items():
        body = f"<p><a href='index.html'>all modules</a></p><h1>{name}</h1>{_text(text, links)}"
        body += "".join(_section(entry, links, 2) for entry in entries)
        write_text(Path(out) / f"{name}.html", _page(name, body))
        first = _inline(text.split("\n\n")[0].replace("\n", " "), links)
        rows.append(f"<dt><a href='{name}.html'>{name}</a></dt><dd>{first}</dd>")
    body = f"<h1>{package.name}</h1><dl>{''.join(rows)}</dl>"
    write_text(Path(out) / "index.html", _page(package.name, body))
    return len(modules)


def _entries(body: list[ast.stmt], owner: str = "") -> Iterator[Entry]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        text, name = ast.get_docstring(node) or "", owner + node.name
        if isinstance(node, ast.FunctionDef):
            head = f"{name}({ast.unparse(node.args)})"
            head += f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield Entry(name, head, text, _parameters(node), _gives_back(node))
            continue
        made = _maker(node, body)
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        head = f"class {name}({bases})" if bases else f"class {name}"
        inner = tuple(_entries(node.body, f"{node.name}."))
        yield Entry(name, head, text, _parameters(made) if made else None, False, inner)


def _maker(node: ast.ClassDef, body: list[ast.stmt]) -> ast.FunctionDef | None:
    """Return the ``__init__`` of a class, also where a base in the same module has it; None without one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    bases = {ast.unparse(base) for base in node.bases}
    owners = [item for item in body if isinstance(item, ast.ClassDef) and item.name in bases]
    return next((made for item in owners if (made := _maker(item, body))), None)


def _with_methods(entries: tuple[Entry, ...]) -> Iterator[Entry]:
    for entry in entries:
        yield entry
        yield from entry.inner


def _parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    given = node.args
    rest = [item for item in (given.vararg, given.kwarg) if item]
    names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)]
    return tuple(name for name in names if name not in ("self", "cls"))


def _gives_back(node: ast.FunctionDef) -> bool:
    """Return whether a function returns or yields a value, or has no body to tell (a protocol's)."""
    is_bare = all(isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) for item in node.body)
    return is_bare or any(
        isinstance(item, (ast.Yield, ast.YieldFrom)) or (isinstance(item, ast.Return) and item.value)
        for item in ast.walk(node)
    )


def _problems(entry: Entry) -> Iterator[str]:
    if not entry.text:
        yield "no docstring"
    elif not re.search(r"[.:?!]$", entry.text.split("\n\n")[0]):
        yield "the first sentence does not end"
    parts = dict(_parts(entry.text))
    documented = [name.lstrip("*") for name, _ in _pairs(parts.get("Args", ""))]
    for name in documented:
        if name not in (entry.parameters or ()):
            yield f"it explains an argument {name!r} that it does not have"
    if entry.text.startswith("Return ") and not entry.returns:
        yield "it says that it returns something, and does not"


def _parts(text: str) -> list[tuple[str, str]]:
    """Return the sections of a docstring, the text before them under ``""``.

    Example:
        >>> _parts("Return one.\\n\\nArgs:\\n    a: Two.")
        [('', 'Return one.'), ('Args', 'a: Two.')]
    """
    cut = _HEADING.split(text)
    pairs = [("", cut[0]), *zip(cut[1::2], cut[2::2], strict=True)]
    return [
        (title, re.sub(r"^ {4}", "", body.strip("\n"), flags=re.MULTILINE).rstrip()) for title, body in pairs
    ]


def _pairs(body: str) -> list[tuple[str, str]]:
    """Return name and meaning of each line of Args, Attributes or Raises.

    Example:
        >>> _pairs("a: Two\\n    lines.\\nb: One.")
        [('a', 'Two lines.'), ('b', 'One.')]
    """
    cut = _ENTRY.split(body)
    return [(name, " ".join(text.split())) for name, text in zip(cut[1::2], cut[2::2], strict=True)]


def _links(modules: dict[str, tuple[str, tuple[Entry, ...]]]) -> dict[str, str]:
    """Return where a name in backticks leads: names of modules, and names that only one module has."""
    found: dict[str, str] = {}
    for module, (_, entries) in modules.items():
        found[module] = f"{module}.html"
        for entry in _with_methods(entries):
            found[entry.name] = "" if entry.name in found else f"{module}.html#{entry.name}"
            found[f"{module}.{entry.name}"] = f"{module}.html#{entry.name}"
    return {name: address for name, address in found.items() if address}


def _inline(text: str, links: dict[str, str]) -> str:
    """Return a line as HTML: ``literal``, `name` with its link, and *emphasis*.

    Example:
        >>> _inline("``a < b``, `Runner`: *we*", {"Runner": "x.html"})
        "<code>a &lt; b</code>, <a href='x.html'><code>Runner</code></a>: <em>we</em>"
    """

    def mark(match: re.Match) -> str:
        literal, name, stressed = match.groups()
        if stressed:
            return f"<em>{stressed}</em>"
        shown = f"<code>{literal or name}</code>"
        return f"<a href='{links[name]}'>{shown}</a>" if name in links else shown

    return _MARKS.sub(mark, html.escape(text, quote=False))


def _text(text: str, links: dict[str, str]) -> str:
    out = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith((">>>", "    ")):
            out.append(f"<pre>{html.escape(block, quote=False)}</pre>")
        elif block.startswith("* "):
            items = re.split(r"^\* ", block, flags=re.MULTILINE)[1:]
            out.append(f"<ul>{''.join(f'<li>{_inline(item, links)}</li>' for item in items)}</ul>")
        elif block:
            out.append(f"<p>{_inline(re.sub('::$', ':', block), links)}</p>")
    return "".join(out)


def _section(entry: Entry, links: dict[str, str], level: int) -> str:
    head = html.escape(entry.head, quote=False)
    out = [f"<section id='{entry.name}'><h{level}>{head}</h{level}>"]
    for title, body in _parts(entry.text):
        pairs = _pairs(body) if title in ("Args", "Attributes", "Raises") else []
        out.append(f"<h4>{title}</h4>" if title else "")
        if pairs:
            rows = (f"<dt>{name}</dt><dd>{_inline(text, links)}</dd>" for name, text in pairs)
            out.append(f"<dl>{''.join(rows)}</dl>")
        else:
            out.append(_text(body, links))
    out += [_section(inner, links, level + 1) for inner in entry.inner]
    return "".join(out) + "</section>"


def _page(title: str, body: str) -> str:
    return visible(
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
