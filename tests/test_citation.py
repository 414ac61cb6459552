"""CITATION.cff keeps the rules of the Citation File Format 1.2.0 that concern what it uses."""

from __future__ import annotations

import copy
import re

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")  # comes with Jupyter

# Written from the guide to CFF 1.2.0 for the keys that a citation file of software may have. Keys outside of
# these are refused, as the format itself does.
TEXT = {"type": "string", "minLength": 1}
URL = {"type": "string", "pattern": r"^(https|http|ftp|sftp)://\S+$"}
DATE = {"type": "string", "pattern": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"}
DOI = {"type": "string", "pattern": r"^10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+$"}
ORCID = {"type": "string", "pattern": r"^https://orcid\.org/(\d{4}-){3}\d{3}[\dX]$"}
VERSION = {"type": ["string", "number"]}
CONTACT = {"email": {"type": "string", "pattern": r"^\S+@\S+\.\S+$"}, "website": URL, "orcid": ORCID}
PERSON = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("given-names", "family-names", "name-particle", "name-suffix", "alias"), TEXT),
        **dict.fromkeys(("affiliation", "address", "city", "country"), TEXT),
        **CONTACT,
    },
    "minProperties": 1,
    "additionalProperties": False,
}
ENTITY = {
    "type": "object",
    "properties": {"name": TEXT, "alias": TEXT, "date-start": DATE, "date-end": DATE, **CONTACT},
    "required": ["name"],
    "additionalProperties": False,
}
AUTHORS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"anyOf": [PERSON, ENTITY]}}
IDENTIFIER = {
    "type": "object",
    "properties": {"type": {"enum": ["doi", "url", "swh", "other"]}, "value": TEXT, "description": TEXT},
    "required": ["type", "value"],
    "additionalProperties": False,
    "allOf": [
        {
            "if": {"properties": {"type": {"const": kind}}},
            "then": {"properties": {"value": rule}},
        }
        for kind, rule in (("doi", DOI), ("url", URL), ("swh", {"pattern": r"^swh:1:(snp|rel|rev|dir|cnt):"}))
    ],
}
IDENTIFIERS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": IDENTIFIER}
KEYWORDS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": TEXT}
SHARED = {
    **dict.fromkeys(("title", "abstract"), TEXT),
    **dict.fromkeys(("url", "repository", "repository-code", "repository-artifact"), URL),
    "authors": AUTHORS,
    "commit": TEXT,
    "date-released": DATE,
    "doi": DOI,
    "identifiers": IDENTIFIERS,
    "keywords": KEYWORDS,
    "license": {"type": ["string", "array"]},
    "license-url": URL,
    "version": VERSION,
}
REFERENCE = {
    "type": "object",
    "properties": {
        **SHARED,
        "type": {
            "enum": ["article", "book", "conference", "conference-paper", "data", "dataset", "generic",
                     "manual", "pamphlet", "proceedings", "report", "software", "software-code", "standard",
                     "thesis", "unpublished", "website"]
        },
        **dict.fromkeys(("journal", "notes", "status", "publisher-name"), TEXT),
        **dict.fromkeys(("year", "month", "volume", "issue", "start", "end", "pages"),
                        {"type": ["integer", "string"]}),
        "date-published": DATE,
    },
    "required": ["authors", "title", "type"],
    "additionalProperties": False,
}  # fmt: skip
CFF = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        **SHARED,
        "cff-version": {"const": "1.2.0"},
        "message": TEXT,
        "type": {"enum": ["software", "dataset"]},
        "contact": AUTHORS,
        "preferred-citation": REFERENCE,
        "references": {"type": "array", "minItems": 1, "uniqueItems": True, "items": REFERENCE},
    },
    "required": ["authors", "cff-version", "message", "title"],
    "additionalProperties": False,
}


class Strict(yaml.SafeLoader):
    """Reads YAML as the format wants it: a date stays text, and a key given twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key occurs twice among {keys}"
        return super().construct_mapping(node, deep)


Strict.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


@pytest.fixture
def citation(repository):
    return yaml.load((repository / "CITATION.cff").read_text(encoding="utf-8"), Loader=Strict)


def broken_rules(value):
    return sorted(error.message for error in jsonschema.Draft202012Validator(CFF).iter_errors(value))


def test_the_citation_file_keeps_every_rule(citation):
    jsonschema.Draft202012Validator.check_schema(CFF)
    assert broken_rules(citation) == []
    assert citation["license"] in ("MIT", "Apache-2.0")  # an SPDX name, not "MIT License"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("message"), "'message' is a required property"),
        (lambda c: c.update({"cff-version": 1.2}), "'1.2.0' was expected"),
        (lambda c: c.update(authors=[]), "should be non-empty"),
        (lambda c: c.update(authors=[{"given-name": "A"}]), "not valid under any of the given schemas"),
        (lambda c: c.update(authors=c["authors"] * 2), "has non-unique elements"),
        (lambda c: c.update(type="article"), "is not one of"),
        (lambda c: c.update(bibtex="@article{}"), "Additional properties are not allowed"),
        (lambda c: c.update({"date-released": "24.11.2026"}), "does not match"),
        (lambda c: c.update(doi="https://doi.org/10.5281/zenodo.1"), "does not match"),
        (lambda c: c["references"][0].pop("type"), "'type' is a required property"),
        (lambda c: c["references"][0].update(url="arxiv.org/abs/2505.23723"), "does not match"),
        (lambda c: c["references"][0]["identifiers"][0].update(type="arxiv"), "is not one of"),
        (lambda c: c["references"][0]["identifiers"][0].update(type="doi"), "does not match"),
    ],
)
def test_each_rule_can_be_broken(citation, change, words):
    value = copy.deepcopy(citation)
    change(value)
    assert any(words in message for message in broken_rules(value)), broken_rules(value)


def test_a_key_given_twice_is_seen():
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("title: a\ntitle: b\n", Loader=Strict)


def test_the_paper_is_the_one_that_is_reproduced(citation):
    [paper] = citation["references"]
    assert len(paper["authors"]) == 8 and paper["authors"][-1]["family-names"] == "Chen"
    ids = {re.sub(r".*[:/](?=\d)", "", text) for text in (paper["url"], paper["identifiers"][0]["value"])}
    assert ids == {"2505.23723"}
