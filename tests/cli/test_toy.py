import pytest
from click.testing import CliRunner
from matplotlib import pyplot
from PIL import Image

from gcref.cli import cli


def call(*args):
    return CliRunner().invoke(cli, ["toy", *map(str, args)])


def test_a_still(tmp_path):
    out = tmp_path / "toy.png"
    result = call("--out", out, "--n-steps", 7)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["step 0", "step 5", "step 7"]
    assert lines[-1] == f"wrote {out}"
    with Image.open(out) as picture:
        assert picture.size == (1350, 810)


def test_the_step_of_a_still(tmp_path):
    pictures = []
    for step in ((), ("--step", 5), ("--step", 2)):
        assert call("--out", tmp_path / "toy.svg", "--n-steps", 5, "--overwrite", *step).exit_code == 0
        pictures.append((tmp_path / "toy.svg").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_options_change_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("gcref.toy_figure.save", lambda *_: None)
    shown = set()
    for option in (
        (),
        ("--seed", 1),
        ("--n-points", 50),
        ("--n-clusters", 2),
        ("--noise", 0.5),
        ("--learning-rate", 1),
    ):
        result = call("--out", tmp_path / "toy.png", "--n-steps", 1, "--overwrite", *option)
        shown.add(result.stdout)
    assert len(shown) == 6


def test_a_film_by_name_or_by_format(tmp_path):
    for out, args in ((tmp_path / "toy.gif", ()), (tmp_path / "film", ("--format", "gif"))):
        assert call("--out", out, "--n-steps", 2, *args).exit_code == 0
        with Image.open(out) as film:
            assert (film.format, film.n_frames) == ("GIF", 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --out FILE for a picture or a film, or --show for a window"),
        (("--out", "toy.txt"), "toy.txt: a name that ends in one of .png, .svg, .pdf, .gif, .mp4 is expected"),
        (("--out", "/no/such/toy.png"), "the folder /no/such does not exist"),
        (("--out", "toy.gif", "--step", 1), "--step 1 is for a still"),
        (("--show", "--step", 1), "--step 1 is for a still"),
        (("--out", "toy.png", "--step", 31), "--step 31 is beyond --n-steps 30"),
        (("--out", "toy.png", "--n-points", 3), "n_clusters=4, but there are only n_points=3"),
        (("--out", "toy.png", "--n-clusters", 9), "9 is not in the range 1<=x<=8"),
        (("--out", "toy.png", "--noise", "nan"), "noise=nan; a number above 0 and at most 100 is expected"),
        (("--out", "toy.png", "--n-steps", -1), "n_steps=-1"),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = call(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "toy.png"
    out.write_text("mine")
    result = call("--out", out, "--n-steps", 0)
    assert result.exit_code == 2
    assert "is already there" in result.stderr
    assert out.read_text() == "mine"


def test_show_without_a_display_is_refused_before_anything_is_done(tmp_path):
    pyplot.switch_backend("agg")
    result = call("--show", "--n-steps", 0, "--out", tmp_path / "t.png")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
    assert "--show: there is no display" in result.stderr
    assert "Traceback" not in result.output
