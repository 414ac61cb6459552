"""What is installed, from where, by which command: one set of versions, one test command."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

import mlagent_lib

PIN = re.compile(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+-]+")


@pytest.fixture(scope="module")
def project(repository):
    """Return the parsed pyproject.toml."""
    return tomllib.loads((repository / "pyproject.toml").read_text())


def test_everything_is_pinned_once(project):
    extras = project["project"]["optional-dependencies"]
    assert extras.keys() == {"test", "unsloth", "cluster", "docs", "openenv", "gguf"}
    lines = [*project["project"]["dependencies"], *extras["test"], *extras["unsloth"]]
    assert all(PIN.fullmatch(line) for line in lines)
    names = [line.split("==")[0].lower() for line in lines]
    assert len(names) == len(set(names))
    for name in ("cluster", "docs", "openenv", "gguf"):
        assert extras[name] and set(extras[name]) <= set(extras["test"])


def test_conda_gets_the_same_versions(repository, project):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["test"]]
    assert pip == [*wanted, "--editable ."]
    assert conda == ["python=3.11", "pip"] and project["project"]["requires-python"] == ">=3.11"


def test_installed_versions_are_the_pins(project):
    from mlagent_lib.core.provenance import versions

    pins = dict(line.split("==") for line in project["project"]["dependencies"])
    found = {name: version.split("+")[0] for name, version in versions(tuple(pins)).items()}
    found.pop("python")
    assert found == pins


def test_version_and_licence_agree_everywhere(repository, project):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert project["project"]["dynamic"] == ["version"] and citation["version"] == mlagent_lib.__version__
    assert citation["license"] == project["project"]["license"] == "MIT"
    assert (repository / "LICENSE").read_text().startswith("MIT License")
    assert "The ML-Agent kit authors" in (repository / "LICENSE").read_text()
    changelog = (repository / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{mlagent_lib.__version__}]" in changelog


def test_citation_has_what_the_format_asks_for(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert all(author.keys() <= {"name", "given-names", "family-names"} for author in citation["authors"])
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys() and paper["year"] == 2025
    assert "2505.23723" in paper["url"] and paper["title"].startswith("ML-Agent: Reinforcing LLM Agents")


def test_package_data_covers_what_lies_in_the_package(repository, project):
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    suffixes = {pattern.removeprefix("*") for pattern in patterns} | {".py", ".pyc"}
    package = repository / "mlagent_lib"
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    files = [path for path in files if not any(part.startswith((".", "__py")) for part in path.parts)]
    left_out = [str(path) for path in files if path.suffix not in suffixes]
    assert left_out == []


def command_of(text, marker):
    """Return the bash block after a marker comment."""
    found = re.search(rf"<!-- {marker} -->\s*```bash\n(.*?)```", text, re.DOTALL)
    return found[1].strip() if found else None


def test_the_readme_has_the_two_commands(repository):
    readme = repository / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    command = command_of(readme.read_text(), "test-command")
    assert command and command.endswith("pytest") and "python3 -m venv" in command
    assert "mlagent run" in readme.read_text()


def make_kit(folder, repository, command, *, with_git):
    """Make a small repository with a README and this kit's .ci/run."""
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(repository / ".ci" / "run", folder / ".ci" / "run")
    block = f"<!-- test-command -->\n```bash\n{command}\n```"
    (folder / "README.md").write_text(f"# Kit\n\n{block}\n\n```bash\nfalse\n```\n")
    (folder / "a file.txt").write_text("content")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "junk").write_text("")
    (folder / ".gitignore").write_text(".venv/\n")
    if with_git:
        for words in (["init", "-q"], ["add", "README.md", "a file.txt"]):
            subprocess.run(["git", "-C", str(folder), *words], check=True)


@pytest.mark.parametrize("with_git", [False, True])
def test_ci_runs_the_command_of_the_readme_in_a_fresh_copy(tmp_path, repository, with_git):
    command = 'test ! -e .venv && cat "a file.txt" && pwd && echo "== 7 passed in 0.10s =="'
    make_kit(tmp_path / "kit", repository, command, with_git=with_git)
    done = subprocess.run([tmp_path / "kit" / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("closing line: == 7 passed in 0.10s ==\n")
    assert "content" in done.stdout and f"{tmp_path}/kit\n" not in done.stdout


def test_ci_fails_when_the_command_fails_or_is_missing(tmp_path, repository):
    make_kit(tmp_path / "kit", repository, "echo '1 failed'; exit 3", with_git=False)
    done = subprocess.run([tmp_path / "kit" / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "1 failed" in done.stdout
    (tmp_path / "kit" / "README.md").write_text("# Kit\n")
    done = subprocess.run([tmp_path / "kit" / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no bash block" in done.stderr


def test_ci_script_is_executable_and_says_nothing_of_this_machine(repository):
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert not re.search(r"/work|/root|/home|https?://", script.read_text())
