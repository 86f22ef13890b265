"""CITATION.cff can be read by what reads such files, and names this version and the paper."""

from pathlib import Path

import pytest

import gcref

yaml = pytest.importorskip("yaml", reason="PyYAML, which comes with dask, is needed")

TEXT = (Path(__file__).resolve().parents[1] / "CITATION.cff").read_text(encoding="utf-8")
REQUIRED = {"cff-version", "message", "title", "authors"}  # by the format, version 1.2.0
# What the format allows at the top, of what anybody would write here.
ALLOWED = REQUIRED | {
    "abstract", "type", "version", "license", "keywords", "references", "repository-code", "url", "identifiers",
    "date-released", "doi", "preferred-citation", "contact", "commit",
}  # fmt: skip


@pytest.fixture
def citation():
    return yaml.safe_load(TEXT)


def test_its_fields_are_those_of_the_format(citation):
    assert set(citation) >= REQUIRED
    assert set(citation) <= ALLOWED
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert all(set(author) <= {"name", "family-names", "given-names"} and author for author in citation["authors"])


def test_it_is_of_this_version_and_license(citation):
    assert citation["version"] == gcref.__version__
    assert f"{citation['license']} License" in (Path(__file__).resolve().parents[1] / "LICENSE").read_text()


def test_it_names_the_paper(citation):
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Faghri", "Duvenaud", "Fleet", "Ba"]
    assert paper["year"] == 2020
    assert paper["identifiers"][0]["value"] == "arXiv:2007.04532"
    assert paper["url"].endswith("2007.04532")
