"""The page itself: whole without scripts or a network, in order for a screen reader, and safe from what files say."""

import base64
import hashlib
import itertools
import re

import pytest
from page_cases import Page, image, row, sweep, table

from gcref import report
from gcref.report import Outcome, Supplied
from gcref.store import StoreError
from gcref.validation.tally import Check
from gcref.validation.verdicts import FAILS, HOLDS, PART, UNJUDGED, Claim

CLAIMS = [
    Claim("4.2", f"sentence {i}", f"number {i}", f"rule {i}", verdict)
    for i, verdict in enumerate((HOLDS, HOLDS, PART, FAILS, UNJUDGED))
]


def checks():
    good, exact, none = Check("labels", "what labels are", 1e-6), Check("digests", "equal"), Check("gap", "", None)
    good.compare("t", "x", [0], [1.0], [1.0 + 1e-9])
    exact.expect(False, "t<1>", 20, "digest", "stored", "expected")
    none.note = "a finding"
    return [good, exact, none, Check("recomputation", "", n=2)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [
        image(folder / "plain.h5"),
        sweep(folder / "results.h5", states=("complete", "complete")),
        image(folder / "dup.h5", duplicate_fraction=0.5),
    ]


@pytest.fixture(scope="module")
def html(paths):
    supplied = Supplied(
        CLAIMS, "", {paths[1]: Outcome(checks(), "2 trajectories")}, [("numpy", "2.0")], "gcref report …"
    )
    return report.render(paths, supplied)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def undrawn(monkeypatch):
    """Draw no figures, which takes most of the time."""
    monkeypatch.setattr("gcref.report.page.draw", lambda drawings: [])


class TestForm:
    def test_ids_are_unique_and_every_reference_has_its_target(self, page):
        elements = list(page.root.below())
        ids = [e["id"] for e in elements if e["id"] is not None]
        assert len(set(ids)) == len(ids)
        wanted = [e["href"][1:] for e in elements if (e["href"] or "").startswith("#")]
        wanted += [t for e in elements for t in f"{e['aria-labelledby'] or ''} {e['aria-describedby'] or ''}".split()]
        wanted += [t for e in elements for v in e.attributes.values() for t in re.findall(r"url\(#(.*?)\)", v or "")]
        assert len(wanted) > 100
        assert set(wanted) <= set(ids)

    def test_it_says_what_it_is(self, page):
        assert page.root.one("html")["lang"] == "en"
        assert page.root.one("head").one("title").text == "results.h5, plain.h5, dup.h5 · gcref report"
        assert page.root.one("meta", name="viewport")["content"] == "width=device-width, initial-scale=1"
        assert [len(page.root.all(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5

    def test_headings_are_in_order(self, page):
        levels = [int(h.tag[1]) for h in page.root.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))

    def test_sections_are_in_the_contents(self, page):
        titles = [section.one("h2").text for section in page.root.all("section")]
        assert titles == [
            "Configuration", "Figures", "Summary", "Claims of the paper", "Validation", "Environment",
            "How to reproduce",
        ]  # fmt: skip
        assert [a["href"] for a in page.root.one("nav").all("a")] == [f"#{s['id']}" for s in page.root.all("section")]

    def test_every_image_has_a_name_and_words(self, page):
        assert not page.root.all("img", "canvas", "video", "object", "embed", "iframe")
        pictures = page.root.all("svg")
        assert len(pictures) == 10  # Figs. 4, 5, 9 at one rate: (a) and (b); Figs. 3 and 7: two each
        names = []
        for svg in pictures:
            assert svg["role"] == "img"
            title, words = svg.one("title"), svg.one("desc")
            assert (svg["aria-labelledby"], svg["aria-describedby"]) == (title["id"], words["id"])
            assert words.text.startswith("Across: ")
            names.append(title.text)
        assert len(set(names)) == len(names)

    def test_tables_have_heads_of_columns_and_rows(self, page):
        tables = page.root.all("table")
        assert len(tables) == 7
        assert len({t.one("caption").text for t in tables}) == 7
        for one in tables:
            (head, *body) = one.all("tr")
            assert {cell["scope"] for cell in head.children if not isinstance(cell, str)} == {"col"}
            for line in body:
                cells = line.all("th", "td")
                assert cells[0].tag == "th"
                assert {cell["scope"] for cell in cells if cell.tag == "th"} == {"row"}
                assert len(cells) == len(head.all("th"))

    def test_a_table_that_can_be_scrolled_can_be_scrolled_by_keys(self, page):
        boxes = [e for e in page.root.all("div") if e["class"] == "scroll"]
        assert len(boxes) == 7
        for box in boxes:
            assert (box["role"], box["tabindex"]) == ("region", "0")
            assert box["aria-labelledby"] == box.one("caption")["id"]


class TestAlone:
    def test_it_loads_nothing(self, html, page):
        for element in page.root.below():
            assert not {"src", "srcset", "data", "action", "poster", "background", "ping"} & element.attributes.keys()
            assert not [name for name in element.attributes if name.startswith("on")]
            href = element["href"]
            if href is not None and not href.startswith("#"):
                assert (element.tag, href) in {("link", "data:,"), ("a", "https://arxiv.org/abs/2007.04532")}
        style = "".join(e.text for e in page.root.all("style"))
        assert "@import" not in style
        assert not re.search(r"url\((?!#)", html)

    def test_the_policy_forbids_the_rest(self, page):
        policy = page.root.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
        (script,) = page.root.all("script")
        (source,) = script.children
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert policy.split("; ") == [
            "default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'", "img-src data:",
            "base-uri 'none'", "form-action 'none'",
        ]  # fmt: skip

    def test_nothing_waits_for_the_script(self, page):
        assert not page.root.all("noscript", "template", "button")
        assert not [e for e in page.root.below() if e["hidden"] is not None or "display" in (e["style"] or "")]

    def test_the_same_files_give_the_same_page(self, paths):
        assert report.render(paths[:1]) == report.render(paths[:1])

    def test_no_folder_is_told(self, paths, html):
        assert str(paths[0].parent) not in html


class TestContents:
    def test_facts(self, page):
        facts = page.root.one("dl", **{"class": "facts"})
        found = {dt.text: dd.text for dt, dd in zip(facts.all("dt"), facts.all("dd"), strict=True)}
        assert found == {
            "trajectories": "2",
            "variance of GC over SG-B's without duplicates, geometric mean": "0.73",  # √(0.6 · 0.9)
            "image runs": "2",
            "variance of GC over SG-B's, last 70 % of training": "0.33",
            "judged claims hold, wholly or in part": "3 of 4",
            "validation from scratch": "a check failed",
        }

    def test_configuration(self, page):
        section = page.root.one("section", id="configuration")
        assert [h.text for h in section.all("h3")] == ["Random features", "Images", "Estimators"]
        assert table(page, "What differs between the files") == [
            ["File", "duplicate fraction"], ["plain.h5", "0"], ["dup.h5", "0.5"]
        ]  # fmt: skip
        settings = [dict(zip([d.text for d in s.all("dt")], [d.text for d in s.all("dd")], strict=True))
                    for s in section.all("dl") if s["class"] == "settings"]  # fmt: skip
        assert settings[0]["over-parametrization hₛ/N"] == "0.1, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10"
        assert settings[0]["weight decay"] == "0.0001"
        assert (settings[1]["training examples"], settings[1]["augment"]) == ("all", "no")
        assert "duplicate fraction" not in settings[1]

    def test_figures(self, page):
        section = page.root.one("section", id="figures")
        assert [h.text.split(".")[1].strip() for h in section.all("h3")] == ["3", "4", "5", "7", "9"]
        notes = [p.text for p in section.all("p") if p["class"] == "note"]
        assert notes == [
            "Fig. 6 is not drawn: no run has label smoothing or corruption.",
            "Fig. 8 is not drawn: the file has no trajectory with duplicates.",
        ]

    def test_claims(self, page):
        rows = table(page, "The sentences, judged")
        assert rows[1:] == [[c.says, c.section, c.measured, c.rule, c.verdict] for c in CLAIMS]
        tally = [li.text for li in page.root.one("ul", **{"class": "tally"}).all("li")]
        assert tally == ["holds: 2", "holds in part: 1", "does not hold: 1", "cannot be judged: 1"]

    def test_validation(self, page):
        rows = table(page, "What was checked: results.h5")
        assert rows[1:] == [
            ["labels", "what labels are", "1", "1e-09", "1e-06", "pass"],
            ["digests", "equal", "1", "–", "equal", "FAIL"],
            ["gap", "(a finding)", "0", "–", "–", "nothing"],
            ["recomputation", "", "2", "–", "equal", "pass"],
        ]
        section = page.root.one("section", id="validation")
        assert "FAIL Not as it should be: digests (2 of 2 trajectories recomputed" in section.text
        assert [li.text for li in section.all("li")] == [
            "t<1>, iteration 20: digest is stored, expected expected"
        ]  # fmt: skip

    def test_reproduction(self, page):
        section = page.root.one("section", id="reproduce")
        blocks = [pre.text for pre in section.all("pre")]
        assert blocks[:3] == ["gcref …"] * 3
        assert blocks[3].split("\n") == [
            "gcref validate results.h5",
            "gcref validate plain.h5",
            "gcref validate dup.h5",
            "",
        ]
        assert blocks[4] == "gcref figures results.h5 plain.h5 dup.h5 --out figures\ngcref report …"
        assert '"n_originals": 5' in blocks[6]
        assert [d.text for d in section.all("dd")] == ["ab12"] * 3

    def test_what_was_not_done_is_said(self, paths, undrawn):
        bare = Page(report.render(paths[1:2], Supplied(unjudged="it has no SVRG")))
        text = {s["id"]: s.text for s in bare.root.all("section")}
        assert "Not judged: it has no SVRG." in text["claims"]
        assert text["validation"].startswith("Validation Not run.")
        assert text["validation"].endswith("gcref validate results.h5")

    def test_no_claims_no_section(self, paths):
        bare = Page(report.render([paths[0]]))
        assert "claims" not in [s["id"] for s in bare.root.all("section")]
        assert "#claims" not in [a["href"] for a in bare.root.all("a")]

    def test_a_doubtful_file_is_named(self, tmp_path):
        bare = Page(report.render([image(tmp_path / "run.h5", status="unfinished")]))
        (first, second) = [p.text for p in bare.root.all("p") if p["class"] == "warning"]
        assert first == "run.h5 holds an unfinished run (1 trajectories)."
        assert second.startswith("run.h5 has changed since it was written")

    def test_every_trajectory_diverged(self, tmp_path):
        rows = [row("t", method, numbers=(float("nan"),) * 4) for method in ("sgb", "gc")]
        bare = Page(report.render([sweep(tmp_path / "x.h5", rows, states=("diverged",))]))
        assert not bare.root.all("svg")
        assert "every trajectory without duplicates diverged" in bare.root.one("section", id="figures").text
        assert "no trajectory whose numbers are all finite" in bare.root.one("section", id="summary").text

    def test_files_of_one_name_have_their_folders_with_them(self, tmp_path, undrawn):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        paths = [image(tmp_path / "a" / "x.h5"), image(tmp_path / "b" / "x.h5", seed=1)]
        bare = Page(report.render(paths))
        assert [r[0] for r in table(bare, "The runs")[1:]] == ["a/x.h5", "b/x.h5"]


EVIL = "</code></script><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='alert(1)"


class TestHostileFiles:
    def test_what_files_say_is_text(self, tmp_path, html):
        rows = [row(f"t{x}", m, ratio=x) for x in (1.0, 2.0) for m in ("sgb", "<b>&'\"</b>")]
        about = {"command": EVIL, "digest": EVIL, "gcref_version": EVIL}
        config = {EVIL: EVIL, "methods": [EVIL], "seed": [EVIL, {"<i>": EVIL}]}
        one = sweep(tmp_path / "<i onclick=alert(1)>.h5", rows, config=config, **about)
        other = image(tmp_path / "run.h5", status=EVIL, dataset=EVIL, model="</svg></title><script>")
        bare = Page(report.render([one, other]))
        benign = Page(html)
        assert {e.tag for e in bare.root.below()} <= {e.tag for e in benign.root.below()}
        assert {a for e in bare.root.below() for a in e.attributes} <= {
            a for e in benign.root.below() for a in e.attributes
        }
        assert len(bare.root.all("script")) == 1
        assert EVIL in bare.root.one("section", id="reproduce").text
        assert "<b>&'\"</b>" in [r[0].lower() for r in table(bare, "The methods, over all trajectories")]

    def test_characters_that_do_something_are_written_out(self, tmp_path, undrawn):
        path = sweep(tmp_path / "r.h5", command="a\u202eb\x07\x1b[2J")
        assert "a\\u202eb\\x07\\x1b[2J" in report.render([path])

    def test_a_name_that_is_no_unicode(self, tmp_path, undrawn):
        page = report.render([sweep(tmp_path / "a\udcff b.h5")])
        page.encode()
        assert "a\\udcff b.h5" in page

    def test_a_name_that_looks_like_an_option(self, tmp_path, undrawn):
        assert "gcref validate &#39;./-x y.h5&#39;" in report.render([sweep(tmp_path / "-x y.h5")])

    def test_long_texts_are_cut(self, tmp_path, undrawn):
        config = {"x" * 5000: 1, "head": "y" * 5000, "seed": list(range(5000))}
        html = report.render([sweep(tmp_path / "r.h5", command="z" * 5000, config=config)])
        shown = html.partition("<details>")[0]
        assert not re.search("x{401}|y{401}|z{401}", shown)
        assert len(shown) < len(html) < 10**6

    def test_attributes_of_other_kinds(self, tmp_path, undrawn):
        page = Page(report.render([sweep(tmp_path / "r.h5", command=[1, 2], digest=3.0, gcref_version=b"\xff")]))
        text = page.root.one("section", id="reproduce").text
        assert "# r.h5 does not record its command" in text
        assert "not recorded" in text


class TestRefusals:
    def test_no_file(self):
        with pytest.raises(ValueError, match="paths must name at least one results file"):
            report.render([])

    def test_one_file_twice(self, paths):
        with pytest.raises(ValueError, match=r"plain\.h5 is given twice"):
            report.render([paths[0], paths[0].parent / ".." / paths[0].parent.name / "plain.h5"])

    def test_two_files_with_one_figure(self, paths, tmp_path):
        with pytest.raises(
            ValueError, match=r"results\.h5 and .*other\.h5 both have data for Fig\. 4; give one of them"
        ):
            report.render([paths[1], sweep(tmp_path / "other.h5")])

    def test_two_runs_of_one_configuration(self, paths, tmp_path):
        with pytest.raises(ValueError, match="hold the same configuration"):
            report.render([paths[0], image(tmp_path / "again.h5")])

    def test_another_study(self, tmp_path):
        with pytest.raises(ValueError, match="is of a study without figures: config has schema 'other/1'"):
            report.render([sweep(tmp_path / "x.h5", config={"schema": "other/1"})])

    def test_no_results_file(self, tmp_path):
        with pytest.raises(StoreError, match="no such file"):
            report.render([tmp_path / "none.h5"])


class TestSave:
    def test_whole_and_by_name(self, tmp_path):
        report.save("<p>ḡ", tmp_path / "a.html")
        assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<p>ḡ"
        assert [p.name for p in tmp_path.iterdir()] == ["a.html"]

    def test_nothing_is_overwritten_unasked(self, tmp_path):
        out = tmp_path / "a.html"
        out.write_text("mine")
        with pytest.raises(FileExistsError, match=r"a\.html is there already"):
            report.save("new", out)
        assert out.read_text() == "mine"
        report.save("new", out, overwrite=True)
        assert out.read_text() == "new"

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "a.html").write_text("old")
        (tmp_path / "b.html").symlink_to(tmp_path / "there" / "a.html")
        report.save("new", tmp_path / "b.html", overwrite=True)
        assert (tmp_path / "b.html").is_symlink()
        assert (tmp_path / "there" / "a.html").read_text() == "new"

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("a.h5", ValueError, r"out=.*a\.h5 must end in \.html or \.htm"),
            ("no/a.html", FileNotFoundError, "the folder .*no does not exist"),
            ("folder.html", FileExistsError, "is a folder"),
        ],
    )
    def test_names_that_are_refused(self, tmp_path, name, kind, message):
        (tmp_path / "folder.html").mkdir()
        with pytest.raises(kind, match=message):
            report.save("x", tmp_path / name, overwrite=True)
