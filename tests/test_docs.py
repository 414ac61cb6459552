"""The docstrings: every public name has one that tells the truth on its arguments, and all become pages."""

from __future__ import annotations

import re

import pytest

from mlagent_lib import cli
from mlagent_lib.commands.docstrings import problems, read_modules, write_docs

SOURCE = '''"""A module with `shout` and ``literals`` < here.

* one
* two
"""

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


def write_package(folder, source):
    package = folder / "noise"
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


def test_pages_hold_what_the_source_says(tmp_path):
    package = write_package(tmp_path, SOURCE)
    assert problems(package) == []
    assert write_docs(tmp_path / "out", package) == 2  # not the private module
    index = (tmp_path / "out" / "index.html").read_text()
    assert "<dt><a href='noise.loud.html'>noise.loud</a></dt><dd>A module with" in index
    page = (tmp_path / "out" / "noise.loud.html").read_text()
    assert "<a href='noise.loud.html#shout'><code>shout</code></a>" in page
    assert "<code>literals</code> &lt; here." in page and "<ul><li>one\n</li><li>two</li></ul>" in page
    assert "<h2>class Horn(Base)</h2>" in page and "<h3>Horn.blow(self) -&gt; str</h3>" in page
    assert "<dt>size</dt><dd>In centimetres, above 0.</dd>" in page
    assert "<dt>ValueError</dt><dd><em>We</em> failed.</dd>" in page
    assert "<dt>text</dt><dd>Any &lt;text&gt;.</dd><dt>*words</dt><dd>More.</dd>" in page
    assert "<pre>&gt;&gt;&gt; shout(\"a\")\n'A'</pre>" in page and "_private" not in page


def test_a_docstring_of_another_package_stays_text(tmp_path):
    bad = "</pre></script><script>alert(1)</script><!-- <script> \u2028\u202e"
    source = SOURCE.replace("A module with", f"A module with {bad} `<b>`").replace("In centimetres", bad)
    write_docs(tmp_path / "out", write_package(tmp_path, source))
    for name in ("index.html", "noise.loud.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page and "\\u2028\\u202e" in page
        assert not {"<script", "<!--", "<b>", "\u2028", "\u202e"} & set(
            re.findall(r"<script|<!--|<b>|[\u2028\u202e]", page)
        )


def test_the_command_writes_pages_whose_links_all_lead_somewhere(tmp_path, capsys):
    assert cli.main(["docs", "--out", str(tmp_path / "pages")]) == 0
    count = len(read_modules())
    assert capsys.readouterr().out == f"{tmp_path}/pages/index.html: {count} modules\n"
    pages = {path.name: path.read_text() for path in (tmp_path / "pages").glob("*.html")}
    assert len(pages) == count + 1
    known = {page: set(re.findall(r"<section id='([^']+)'", text)) for page, text in pages.items()}
    links = {link for text in pages.values() for link in re.findall(r"href='([^']+)'", text)}
    for link in links:
        page, _, place = link.partition("#")
        assert page in pages and (not place or place in known[page]), link
    assert len(links) > count + 50  # more than the index alone


@pytest.mark.parametrize("command", ["docs", "export"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "example" in text and f"mlagent {command}" in text
