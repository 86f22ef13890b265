import itertools

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.animation import FFMpegWriter
from matplotlib.backend_bases import KeyEvent
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from gcref import toy_figure
from gcref.studies.toy import separable, train
from gcref.toy_figure import SIZE, Player, Scene, save, window


@pytest.fixture(scope="module")
def toy():
    return train(separable(40, 1.0), 4, n_steps=4)


def lines(scene):
    """The boundary now, and those of the clusters."""
    return [scene._plane.boundary, *scene._plane.predicted]


def test_points_have_the_colours_of_their_clusters(toy):
    scene = Scene(toy)
    for step in (4, 1):
        scene.show(step)
        for points, y in zip(scene._plane.points, (1, 0), strict=True):
            np.testing.assert_array_equal(points.get_offsets(), toy.x[toy.y == y])
            expected = [to_rgba(scene._plane.predicted[k].get_color()) for k in toy.labels[step][toy.y == y]]
            np.testing.assert_array_equal(points.get_facecolor(), expected)


def test_the_marks_of_the_classes(toy):
    circle, cross = (len(points.get_paths()[0].vertices) for points in Scene(toy)._plane.points)
    assert circle > cross  # a cross has four ends


def test_boundaries_are_where_the_classifier_is_undecided(toy):
    scene = Scene(toy)
    scene.show(2)
    thetas = [toy.theta[2], *(toy.theta[2] - toy.learning_rate * toy.centers[2])]
    for line, theta in zip(lines(scene), thetas, strict=True):
        ends = np.column_stack([*line.get_data(), np.ones(2)])
        np.testing.assert_allclose(ends @ theta, 0, atol=1e-12)
        assert np.abs(ends[:, :2]).max(axis=1).min() > scene._plane.ax.get_xlim()[1]  # from edge to edge
    assert lines(scene)[0].get_color() == "black"
    assert lines(scene)[0].get_linestyle() == "-"
    assert "-" not in {line.get_linestyle() for line in lines(scene)[1:]}


def test_no_line_where_there_is_no_direction():
    assert toy_figure._boundary(np.array([0.0, 0.0, 1.0]), 3.0) == ([], [])


def test_bars_are_the_variances(toy):
    scene = Scene(toy)
    for step in (3, 0):
        scene.show(step)
        heights = [bar.get_height() for bar in scene._bars.bars]
        assert heights == [toy.variance["sgb"][step], toy.variance["gc"][step]]
        assert scene._bars.ax.get_ylim()[0] == 0
        assert [text.get_text() for text in scene._bars.numbers] == [f"{h:.3g}" for h in heights]
        assert f"{100 * heights[1] / heights[0]:.0f} % of SG-4's" in scene._bars.ax.get_title()
        assert scene._course.now.get_xdata() == [step, step]


def boxes_of(scene):
    """Every text that is drawn, and its box."""
    canvas = FigureCanvasAgg(scene.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in scene.figure.axes:
        frame = ax.get_window_extent()
        for text in dict.fromkeys(ax.findobj(Text)):
            box = text.get_window_extent(renderer)
            off = text in ax.get_yticklabels(which="both") and not frame.y0 <= (box.y0 + box.y1) / 2 <= frame.y1
            if text.get_text() and text.get_visible() and not off:  # ticks beyond the ends of an axis are not drawn
                yield text.get_text(), box


@pytest.mark.parametrize(("n_points", "n_clusters"), [(300, 8), (300, 5), (40, 4), (30, 1)])
def test_nothing_overlaps_and_nothing_is_cut_off(n_points, n_clusters):
    scene = Scene(train(separable(n_points, 1.0), n_clusters, n_steps=3))
    scene.show(3)
    boxes = list(boxes_of(scene))
    width, height = scene.figure.canvas.get_width_height()
    assert len(boxes) > 12 + n_clusters
    for (name, box), (other, neighbour) in itertools.combinations(boxes, 2):
        assert not box.overlaps(neighbour), (name, other)
    for name, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= width, name
        assert 0 <= box.y0 <= box.y1 <= height, name


def test_showing_adds_nothing(toy):
    scene = Scene(toy)
    count = [len(ax.get_children()) for ax in scene.figure.axes]
    for step in range(5):
        scene.show(step)
    assert [len(ax.get_children()) for ax in scene.figure.axes] == count


@pytest.mark.parametrize("form", ["png", "svg", "pdf", "gif"])
def test_the_same_toy_gives_the_same_bytes(tmp_path, form):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(train(separable(20, 1.0, seed), 4, n_steps=1), tmp_path / name, form, step=1)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_film_has_a_frame_a_step_and_lingers_at_the_end(toy, tmp_path):
    save(toy, tmp_path / "toy.gif", "gif", fps=10)
    with Image.open(tmp_path / "toy.gif") as film:
        assert film.n_frames == 5
        durations, pictures = [], []
        for frame in range(5):
            film.seek(frame)
            durations.append(film.info["duration"])
            pictures.append(np.asarray(film.convert("RGB")))
        assert film.info["loop"] == 0
    assert durations == [100, 100, 100, 100, 1100]
    scene = Scene(toy)
    scene.figure.set_dpi(100)
    for step, picture in list(enumerate(pictures))[::2]:
        scene.show(step)
        canvas = FigureCanvasAgg(scene.figure)
        canvas.draw()
        whole = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        assert np.abs(picture - whole).mean() < 0.5  # of 255: edges alone have lost shades
        for k in range(4):
            color = np.round(255 * np.array(to_rgba(scene._plane.predicted[k].get_color())[:3])).astype(int)
            assert (picture == color).all(axis=2).sum() > 20


def test_an_mp4_without_ffmpeg(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(ValueError, match="an mp4 needs the program ffmpeg, which is not there"):
        save(toy, tmp_path / "toy.mp4", "mp4")
    assert not list(tmp_path.iterdir())


def test_ffmpeg_that_fails(toy, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\ncat > /dev/null\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda *_: True)
    monkeypatch.setattr(FFMpegWriter, "bin_path", lambda *_: str(program))
    monkeypatch.setattr(toy_figure, "_LINGER", 0)
    with pytest.raises(OSError, match=r"toy\.mp4 cannot be written: ffmpeg failed with exit code 3"):
        save(toy, tmp_path / "toy.mp4", "mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_every_frame_goes_to_ffmpeg(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do true; done\necho "$@" > "$0.args"\ncat > "$last"\n')
    program.chmod(0o755)
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda *_: True)
    monkeypatch.setattr(FFMpegWriter, "bin_path", lambda *_: str(program))
    monkeypatch.setattr(toy_figure, "_LINGER", 2)
    save(train(separable(20, 1.0), 2, n_steps=1), tmp_path / "toy.mp4", "mp4")
    arguments = (tmp_path / "ffmpeg.args").read_text()
    assert "-f mp4 -pix_fmt yuv420p" in arguments
    assert (tmp_path / "toy.mp4").stat().st_size == (2 + 2) * 1440 * 864 * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda toy, out: save(toy, out, "bmp"), "form must be one of png, svg, pdf, gif, mp4, got 'bmp'"),
        (lambda toy, out: save(toy, out, "png", 5), "step=5; a step from 0 to 4 is expected"),
        (lambda toy, out: save(toy, out, "png", -1), "step=-1"),
        (lambda toy, out: Scene(train(separable(20, 1.0), 9, n_steps=0)), "n_clusters=9; at most 8 can be told apart"),
    ],
)
def test_one_clear_error(toy, tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(toy, tmp_path / "toy.png")
    assert not list(tmp_path.iterdir())


def test_player(toy):
    figure = Figure(figsize=SIZE)
    canvas = FigureCanvasAgg(figure)
    player = Player(toy, figure, fps=50)
    assert player.timer.interval == 20
    shown = []
    player.scene.show = shown.append

    def press(key):
        canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))

    for _ in range(3):
        player.timer._on_timer()
    press(" ")
    player.timer._on_timer()
    press("left")
    press("x")
    press(" ")
    for _ in range(3):
        player.timer._on_timer()
    assert shown == [1, 2, 3, 2, 3, 4, 4]
    assert player.playing
    press("right")
    assert not player.playing


def test_a_window_without_a_display(toy, monkeypatch):
    pyplot.switch_backend("agg")
    with pytest.raises(RuntimeError, match="there is no display, or no toolkit for windows"):
        window(toy)
    assert not pyplot.get_fignums()

    def fail(*args, **kwargs):
        raise ImportError("Cannot load backend 'QtAgg' which requires the 'qt' interactive framework")

    monkeypatch.setattr(pyplot, "figure", fail)
    with pytest.raises(RuntimeError, match="requires the 'qt' interactive framework"):
        window(toy)


def test_a_window_with_a_display(toy, monkeypatch):
    pyplot.switch_backend("agg")
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "qt")
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(len(pyplot.gcf().axes)))
    window(toy)
    assert shown == [4]
    assert not pyplot.get_fignums()
