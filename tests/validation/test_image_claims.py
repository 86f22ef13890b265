"""Which files of image runs judge which sentences."""

import re

import pytest
from page_cases import image

from gcref.store import StoreError
from gcref.validation.image_claims import judge
from gcref.validation.verdicts import HOLDS, PART

METHODS = ("svrg", "sgb", "sg2b", "gc")  # the k-th has the variance 1e-4 / (k + 1)


@pytest.fixture
def file(tmp_path):
    def make(name, methods=METHODS, points=6, **settings):
        return image(tmp_path / f"{name}.h5", methods=methods, points=points, **settings)

    return make


def found(*paths):
    claims, unjudged = judge({path: path.name for path in paths})
    return [(claim.section, claim.measured.split(": ")[0]) for claim in claims], unjudged


@pytest.mark.parametrize(
    ("dataset", "figure"), [("mnist", "3a"), ("fashion-mnist", "3a"), ("cifar10", "3b"), ("imagefolder", "3c")]
)
def test_a_run_judges_what_is_said_of_its_images(file, dataset, figure):
    pairs, unjudged = found(file("run", dataset=dataset))
    assert unjudged == []
    assert (f"4.1, Fig. {figure}", f"run.h5 ({dataset}, mlp)") in pairs
    assert {who for _, who in pairs} == {f"run.h5 ({dataset}, mlp)"}
    assert found(file("other", dataset="digits")) == ([], [])


def test_changed_training_sets_are_held_against_the_run_that_is_the_same_else(file):
    plain = file("plain", dataset="digits")
    smooth, corrupt = (
        file("smooth", dataset="digits", label_smoothing=0.1),
        file("c", dataset="digits", corrupt_fraction=0.1),
    )
    copies = file("copies", dataset="digits", duplicate_fraction=0.5, methods=("sgb", "sg2b", "svrg", "gc"))
    assert found(plain, smooth)[0] == []
    assert found(smooth, corrupt, copies)[0] == []
    assert [section for section, _ in found(plain, smooth, corrupt)[0]] == ["4.1, Fig. 6"] * 3
    assert found(copies, plain) == ([("4.3, Fig. 7", "plain.h5 (digits, mlp)")], [])
    (claim,), _ = judge({plain: "plain.h5", copies: "copies.h5"})  # GC/SG-B 1/2 without, 1/4 with
    assert claim.verdict == HOLDS
    assert claim.measured.endswith("GC/SG-B, median: 0.50 without, 0.25 with")
    elsewhere = file("seed", dataset="digits", duplicate_fraction=0.5, seed=7)
    both = file("both", dataset="digits", duplicate_fraction=0.5, label_smoothing=0.1)
    assert found(plain, elsewhere, both) == ([], [])


def test_a_file_that_judges_nothing_says_why(file):
    short, lacking = file("short", dataset="mnist", points=4), file("lacking", dataset="mnist", methods=("sgb", "gc"))
    pairs, unjudged = found(short, lacking, file("good", dataset="mnist"), file("digits", dataset="digits", points=2))
    assert {who for _, who in pairs} == {"good.h5 (mnist, mlp)"}
    assert unjudged == [
        "short.h5 has 3 measuring points after the start; at least 4 are expected",
        "lacking.h5 lacks the methods sg2b, svrg",
    ]


def test_a_file_that_cannot_be_read(file, tmp_path):
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'none.h5'}: no such file")):
        judge({file("good", dataset="mnist"): "good.h5", tmp_path / "none.h5": "none.h5"})


def test_verdicts_are_those_of_the_sentences(file):
    claims, _ = judge({file("run", dataset="mnist"): "run.h5"})
    by_section = {claim.says: claim.verdict for claim in claims}
    assert by_section["GC is consistently below SG-2B"] == HOLDS
    assert PART not in by_section.values()
