"""The docstrings: every public name has one that tells the truth on its arguments, and all become pages."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from docstring_rules import PACKAGE, problems

from mlagent_lib import cli
from mlagent_lib.commands.docs import write_docs

SOURCE = '''"""A module with `shout` and ``literals`` < here.

* one
* two
"""

class Base:
    """Above."""

class Horn(Base):
    """What makes noise.

    Args:
        size: In centimetres,
            above 0.
    """

    def __init__(self, size: int):
        self.size = size

    def blow(self) -> str:
        """Return the noise.

        Raises:
            ValueError: *We* failed.
        """
        return "!" * self.size

def shout(text: str, *words, times: int = 1) -> str:
    """Return the text louder than `Horn.blow`.

    Args:
        text: Any <text>.
        *words: More.
        times: How often.

    Example:
        >>> shout("a")
        'A'
    """
    return text.upper() * times

def _private(): ...
'''


def write_package(folder, source, name="noise"):
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "loud.py").write_text(source)
    (package / "_hidden.py").write_text("")
    return package


def test_every_docstring_of_the_kit_tells_the_truth():
    assert problems() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"""A module with', '"""', '"""'), "noise.loud: no docstring"),
        (("times: How", "time: How"), "noise.loud.shout: it explains an argument 'time' that it does not"),
        (("size: In", "length: In"), "noise.loud.Horn: it explains an argument 'length'"),
        (('return "!" *', 'print("!") *'), "noise.loud.Horn.blow: it says that it returns something"),
        (("Horn.blow`.", "Horn.blow`"), "noise.loud.shout: the first sentence does not end"),
    ],
)
def test_a_docstring_that_does_not_is_named(tmp_path, change, words):
    source = SOURCE
    if len(change) == 3:
        source = SOURCE[SOURCE.index("class") :]
    else:
        assert source.count(change[0]) == 1
        source = source.replace(*change)
    [found] = problems(write_package(tmp_path, source))
    assert found.startswith(words)


def test_a_public_name_without_docstring_is_named(tmp_path):
    package = write_package(tmp_path, SOURCE + "\ndef bare(): ...\n")
    assert problems(package) == ["noise.loud.bare: no docstring"]


def pages_of(folder) -> dict[str, str]:
    """Return the pages below a folder by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes the pages of a package of that name and source and gives them."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        write_package(tmp_path, source, name)
        assert write_docs(tmp_path / "out", name) == 2  # not the private module
        return pages_of(tmp_path / "out")

    return write


def test_pages_hold_what_the_source_says(tmp_path, written):
    pages = written("noise", SOURCE)
    assert problems(tmp_path / "noise") == []
    assert sorted(pages) == ["index.html", "noise.html", "noise/loud.html"]
    assert "url=./noise.html" in pages["index.html"] and 'href="noise/loud.html"' in pages["noise.html"]
    page = pages["noise/loud.html"]
    text = " ".join(html.unescape(re.sub("<[^>]+>", "", page)).split())
    assert '<code><a href="#shout">shout</a></code>' in page
    assert "<code>literals</code> &lt; here." in page and "<li>one</li>\n<li>two</li>" in page
    assert "class Horn(Base):" in text and "def blow(self) -> str:" in text
    assert "size: In centimetres, above 0." in text and "Raises: ValueError: We failed." in text
    assert "text: Any <text>." in text and "*words: More." in text
    assert ">>> shout(\"a\") 'A'" in text and "_private" not in page


def test_a_docstring_of_another_package_stays_text(written):
    bad = (
        "</pre></script><script>alert(1)</script><!-- <script> \u2028\u202e <img src=x onerror=alert(1)> "
        "[here](javascript:alert(1)) <https://example.org>"
    )
    source = SOURCE.replace("A module with", f"A module with {bad} `<b>`").replace("In centim", bad)
    page = written("clamour", source)["clamour/loud.html"]
    assert page.count("&lt;/script&gt;&lt;script&gt;alert(1)") == 2
    assert "\\u2028" in page and "\\u202e" in page
    assert not re.findall(r"<script|<!--|<b>|<img src=x|href=.javascript|[\u2028\u202e]", page)


def test_without_pdoc_the_command_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "pdoc", None)
    assert cli.main(["docs", "--out", str(tmp_path / "pages")]) == 2
    assert "pdoc, which is not installed. What to do: pip install -e '.[docs]'" in capsys.readouterr().err


def test_the_command_writes_pages_whose_links_all_lead_somewhere(tmp_path):
    out = tmp_path / "pages"
    command = [sys.executable, "-m", "mlagent_lib", "docs", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=PACKAGE.parent)
    modules = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("_")]
    count = len(modules) + len(list(PACKAGE.rglob("__init__.py")))
    count -= find_spec("openenv") is None  # sockets/openenv.py is of an extra
    assert (done.returncode, done.stdout) == (0, f"{out}/index.html: {count} modules\n"), done.stderr
    pages = {(out / name).resolve(): text for name, text in pages_of(out).items()}
    assert len(pages) == count + 1
    seen = 0
    for path, text in pages.items():
        assert "<script" not in text
        for link in set(re.findall(r'href="([^"]+)"', text)) - {"https://pdoc.dev"}:
            page, _, place = link.partition("#")
            target = (path.parent / page).resolve() if page else path
            assert target in pages and (not place or f'id="{place}"' in pages[target]), (path, link)
            seen += 1
    assert seen > count + 50  # more than one to each page


@pytest.mark.parametrize("command", ["docs", "export"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "example" in text and f"mlagent {command}" in text
