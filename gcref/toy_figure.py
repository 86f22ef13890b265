"""Fig. 1: the toy's points by cluster, the boundary now and as each cluster would move it, and the exact variances.

A still, a film, or a window with a slider, of what `gcref.studies.toy.train` returns.
"""

from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.style import context
from matplotlib.ticker import MaxNLocator, NullFormatter
from matplotlib.widgets import Slider
from PIL import Image

from gcref.atomic import replacing, writing
from gcref.engine.trace import Array
from gcref.panels import FORMATS, check_choice, look
from gcref.studies.toy import Toy

__all__ = ["FILMS", "MOST_CLUSTERS", "STILLS", "Player", "Scene", "save", "window"]

STILLS, FILMS = tuple(FORMATS), ("gif", "mp4")
SIZE = (9.0, 5.4)  # inches
# Okabe and Ito's palette, without black, which is the boundary now; those least alike first.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#7F3C8D")
MOST_CLUSTERS = len(_COLORS)
_PLAIN, _CLUSTERED = "0.70", "0.25"  # greys, since colours are the clusters'
_RC: list[Any] = ["default", {"svg.hashsalt": "gcref", "svg.fonttype": "path"}]
_DPI = {"gif": 100, "mp4": 160}  # of a still, 150
_LINGER = 10  # frames that the last one stays, before a film begins again


class Scene:
    """The picture of one step, which can go on to another.

    Parameters
    ----------
    toy : Toy
    figure : matplotlib.figure.Figure, optional
        An empty one to draw on, by default a new one of 9 × 5.4 inches.

    Attributes
    ----------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are more clusters than colours that can be told apart, 8.
    """

    def __init__(self, toy: Toy, figure: Figure | None = None) -> None:
        if toy.n_clusters > MOST_CLUSTERS:
            raise ValueError(f"n_clusters={toy.n_clusters}; at most {MOST_CLUSTERS} can be told apart in a picture")
        self.toy = toy
        self.figure = figure or Figure(figsize=SIZE)
        self._plane = _Plane(toy, self.figure.add_axes((0.025, 0.225, 0.525, 0.69)))
        self._bars = _Bars(toy, self.figure.add_axes((0.645, 0.545, 0.325, 0.30)))
        self._course = _Course(toy, self.figure.add_axes((0.645, 0.145, 0.325, 0.24)))
        self.show(0)

    def show(self, step: int) -> None:
        """Draw step 0 to S: what is drawn is moved, nothing is added.

        Raises
        ------
        ValueError
            If there is no such step.
        """
        if not 0 <= step <= self.toy.n_steps:
            raise ValueError(f"step={step}; a step from 0 to {self.toy.n_steps} is expected")
        for part in (self._plane, self._bars, self._course):
            part.show(step)


def save(toy: Toy, out: Path, form: str, step: int = 0, fps: int = 6) -> None:
    """Write a still or a film, whole or not at all; a file that is there is replaced.

    Parameters
    ----------
    toy : Toy
    out : Path
    form : {"png", "svg", "pdf", "gif", "mp4"}
        The last two are films of all steps.
    step : int
        The step of a still.
    fps : int
        Steps a second of a film; a GIF's frames last whole hundredths of a second.

    Raises
    ------
    ValueError
        If the form is unknown, there is no such step, there are too many clusters, or no ffmpeg for an mp4.
    OSError
        If the file cannot be written, or ffmpeg fails.
    """
    check_choice("form", form, STILLS + FILMS)
    if form == "mp4" and not FFMpegWriter.isAvailable():
        raise ValueError("an mp4 needs the program ffmpeg, which is not there; a gif needs nothing")
    with context(_RC):
        scene = Scene(toy)
        scene.show(step)
        with writing(out), replacing(out) as aside:
            if form in STILLS:
                scene.figure.savefig(aside, dpi=150, format=form, metadata=FORMATS[form])
            elif form == "gif":
                _write_gif(scene, aside, fps)
            else:
                _write_mp4(scene, aside, fps)


def _write_gif(scene: Scene, path: Path, fps: int) -> None:
    """Write the film with Pillow; each frame has the 255 colours that suit it, among them all that fill an area."""
    canvas = FigureCanvasAgg(scene.figure)
    scene.figure.set_dpi(_DPI["gif"])
    frames: list[Image.Image] = []
    for step in range(scene.toy.n_steps + 1):
        scene.show(step)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(255))
    last = max(20, round(1000 / fps))
    durations = [last] * (len(frames) - 1) + [last * (1 + _LINGER)]
    options: dict[str, Any] = {"append_images": frames[1:], "duration": durations, "loop": 0}
    with open(path, "wb") as handle:
        frames[0].save(handle, "GIF", save_all=True, **options)


def _write_mp4(scene: Scene, path: Path, fps: int) -> None:
    """Write the film with ffmpeg; the name aside does not say in which format."""
    writer = FFMpegWriter(fps=fps, codec="h264", extra_args=["-f", "mp4", "-pix_fmt", "yuv420p"])
    try:
        with writer.saving(scene.figure, str(path), _DPI["mp4"]):
            for step in [*range(scene.toy.n_steps + 1), *[scene.toy.n_steps] * _LINGER]:
                scene.show(step)
                writer.grab_frame()
    except CalledProcessError as error:
        raise OSError(f"ffmpeg failed with exit code {error.returncode}") from None


class Player:
    """The film on a figure with a slider: space stops it and lets it go on, the arrow keys go by one step.

    Parameters
    ----------
    toy : Toy
    figure : matplotlib.figure.Figure
        An empty one of 9 × 5.4 inches, with a canvas.
    fps : int
        Steps a second.
    """

    def __init__(self, toy: Toy, figure: Figure, fps: int = 6) -> None:
        self.scene = Scene(toy, figure)
        ax = figure.add_axes((0.645, 0.015, 0.325, 0.03))
        last = max(toy.n_steps, 1)
        self.slider = Slider(ax, "", 0, last, valinit=0, valstep=1, initcolor="none", color=_CLUSTERED)
        self.slider.valtext.set_visible(False)  # the title says it
        self.slider.on_changed(lambda step: self.scene.show(min(round(step), toy.n_steps)))
        self.timer = figure.canvas.new_timer(interval=round(1000 / fps))
        self.timer.add_callback(self._tick)
        figure.canvas.mpl_connect("key_press_event", self._on_key)
        self.playing = True
        self.timer.start()

    def step_by(self, n: int) -> None:
        """Go on by n steps, or back; at the ends stay."""
        self.slider.set_val(min(max(self.slider.val + n, 0), self.scene.toy.n_steps))

    def _tick(self) -> None:
        if self.playing:
            self.step_by(1)

    def _on_key(self, event: Any) -> None:
        if event.key == " ":
            self.playing = not self.playing
        elif event.key in ("left", "right"):
            self.playing = False
            self.step_by(1 if event.key == "right" else -1)


def window(toy: Toy) -> None:
    """Play the film in a window of its own, and return when it is closed.

    Raises
    ------
    ValueError
        If there are too many clusters.
    RuntimeError
        If there is no display, or matplotlib has no toolkit for windows.
    """
    from matplotlib import pyplot

    with context(_RC):
        figure = _open_window()
        try:
            player = Player(toy, figure)
            pyplot.show()
            player.timer.stop()
        finally:
            pyplot.close(figure)


def check_window() -> None:
    """Raise a RuntimeError, as `window`, unless a window could be opened here."""
    from matplotlib import pyplot

    pyplot.close(_open_window())


def _open_window() -> Figure:
    """Return the figure of a window that is not shown yet."""
    from matplotlib import pyplot

    try:
        figure = pyplot.figure("gcref toy", figsize=SIZE)
    except ImportError as error:  # a toolkit was asked for that cannot run here
        raise RuntimeError(str(error)) from None
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        backend = pyplot.get_backend()
        raise RuntimeError(f"there is no display, or no toolkit for windows (matplotlib has only {backend!r})")
    return figure


class _Plane:
    """The points and the boundaries."""

    def __init__(self, toy: Toy, ax: Axes) -> None:
        self.toy, self.ax = toy, ax
        self.colors = np.array(_COLORS[: toy.n_clusters])
        _set_plane(ax, toy.x)
        self.members = [toy.y == 1, toy.y == 0]
        sizes = np.interp(len(toy.y), [100, 2000], [1.0, 0.25])  # many points are small ones
        circles, crosses = (toy.x[member] for member in self.members)
        self.points = [
            ax.scatter(
                circles[:, 0],
                circles[:, 1],
                marker="o",
                s=34 * sizes,
                linewidths=0.7 * sizes,
                edgecolors="white",
                zorder=3,
            ),
            ax.scatter(crosses[:, 0], crosses[:, 1], marker="x", s=34 * sizes, linewidths=1.7 * sizes**0.5, zorder=3),
        ]
        self.predicted = [
            ax.plot([], [], color=color, linestyle=look(color, k + 1)["linestyle"], linewidth=1.9, zorder=5)[0]
            for k, color in enumerate(self.colors)
        ]
        (self.boundary,) = ax.plot([], [], color="black", linewidth=3.2, zorder=4)
        self.sizes = self._legend()

    def show(self, step: int) -> None:
        toy, labels = self.toy, self.toy.labels[step]
        for points, member in zip(self.points, self.members, strict=True):
            points.set_facecolor(self.colors[labels[member]])
        for line, theta in zip([self.boundary, *self.predicted], [toy.theta[step], *toy.predicted(step)], strict=True):
            line.set_data(*_boundary(theta, self.ax.get_xlim()[1]))
        for text, k in zip(self.sizes, range(toy.n_clusters), strict=True):
            text.set_text(self._member(k, int(np.count_nonzero(labels == k))))
        self.ax.set_title(f"step {step}, mean loss {toy.loss[step]:.3g}", fontsize=12, pad=9)

    def _member(self, k: int, n: int) -> str:
        """Name cluster k of n points, in fewer words where there are many clusters."""
        return f"cluster {k + 1} ({_count(n, 'point')})" if self.toy.n_clusters <= 4 else f"{k + 1} ({n})"

    def _legend(self) -> list[Any]:
        """Explain the marks under the axes; return the texts of the clusters, which change."""
        grey: dict[str, Any] = {"color": "0.35", "linestyle": "none", "ms": 6}
        marks = [
            Line2D([], [], marker="o", label="class 1", **grey),
            Line2D([], [], marker="x", mew=1.7, label="class 0", **grey),
            Line2D([], [], color="black", linewidth=3.2, label="boundary now"),
        ]
        box: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "loc": "upper center", "borderaxespad": 0}
        first = self.ax.legend(handles=marks, ncols=3, bbox_to_anchor=(0.5, -0.025), columnspacing=2.2, **box)
        self.ax.add_artist(first)
        few = self.toy.n_clusters <= 4
        columns: dict[str, Any] = {"ncols": 2 if few else 4, "handlelength": 3.4}
        whose = "" if few else " cluster (points)"
        box |= {"title": f"after a step along the mean gradient of{whose}", "title_fontsize": 9.5}
        labels = [""] * self.toy.n_clusters
        second = self.ax.legend(self.predicted, labels, bbox_to_anchor=(0.5, -0.095), **columns, **box)
        return second.get_texts()


def _set_plane(ax: Axes, x: Array) -> None:
    """Show every point, at one scale in both directions."""
    box = ax.get_position()
    ratio = box.height * SIZE[1] / (box.width * SIZE[0])
    reach = 1.08 * max(np.abs(x[:, 0]).max(), np.abs(x[:, 1]).max() / ratio)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach * ratio, reach * ratio)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("0.6")


def _boundary(theta: Array, reach: float) -> tuple[list[float], list[float]]:
    """Return the ends of the line w·x + b = 0 within and beyond a square of ±reach; none where w is 0."""
    w, b = theta[:2], theta[2]
    norm = np.linalg.norm(w)
    if not norm:
        return [], []
    foot = -b * w / norm**2
    along = np.array([-w[1], w[0]]) / norm
    length = 3 * reach + np.linalg.norm(foot)
    ends = np.stack([foot - length * along, foot + length * along])
    return ends[:, 0].tolist(), ends[:, 1].tolist()


def _count(n: int, what: str) -> str:
    """Return "1 point", "2 points"."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


class _Bars:
    """The variance of both estimators at one step. The higher bar has always one height; numbers say which."""

    def __init__(self, toy: Toy, ax: Axes) -> None:
        self.toy, self.ax = toy, ax
        names = [f"SG-{toy.n_clusters}\n(mini-batch of {toy.n_clusters})", f"GC\n({_count(toy.n_clusters, 'cluster')})"]
        self.bars = ax.bar(names, [0, 0], width=0.55, color=[_PLAIN, _CLUSTERED])
        self.numbers = [ax.text(x, 0, "", ha="center", va="bottom", fontsize=10) for x in range(2)]
        ax.set_xlim(-0.6, 1.6)
        ax.set_yticks([])
        ax.spines[["left", "right", "top"]].set_visible(False)
        ax.tick_params(axis="x", length=0, labelsize=10)

    def show(self, step: int) -> None:
        values = [float(self.toy.variance[name][step]) for name in ("sgb", "gc")]
        top = max(values) or 1.0
        for bar, number, value in zip(self.bars, self.numbers, values, strict=True):
            bar.set_height(value)
            number.set_text(f"{value:.3g}")
            number.set_y(value + 0.02 * top)
        self.ax.set_ylim(0, 1.18 * top)
        share = f"GC's is {100 * values[1] / values[0]:.0f} % of SG-{self.toy.n_clusters}'s" if values[0] else "none"
        self.ax.set_title(f"exact variance of one estimate:\n{share}", fontsize=11, pad=4)


class _Course:
    """The variance of both estimators at every step, and where we are."""

    def __init__(self, toy: Toy, ax: Axes) -> None:
        self.toy = toy
        looks: dict[str, dict[str, Any]] = {
            "sgb": {"color": _PLAIN, "linewidth": 2.6, "label": f"SG-{toy.n_clusters}"},
            "gc": {"color": _CLUSTERED, "linewidth": 1.6, "label": "GC"},
        }
        for name, style in looks.items():
            ax.plot(toy.variance[name], marker="o" if toy.n_steps == 0 else None, ms=4, **style)
        values = np.concatenate([toy.variance[name] for name in looks])
        if np.any(values > 0):
            decades = np.log10(values[values > 0])
            ax.set_yscale("log", nonpositive="mask")
            ax.set_ylim(10 ** np.floor(decades.min()), 10 ** (np.floor(decades.max()) + 1))  # few labels, far apart
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(0, max(toy.n_steps, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("step of gradient descent", fontsize=9.5)
        ax.set_title("the same at every step (log scale)", fontsize=9.5, pad=4)
        ax.tick_params(labelsize=8.5)
        ax.grid(axis="y", color="0.92", linewidth=0.7)
        ax.spines[["right", "top"]].set_visible(False)
        ax.legend(frameon=False, fontsize=9, loc="upper right", borderaxespad=0)
        self.now = ax.axvline(0, color="black", linewidth=1.4, linestyle=(0, (1, 1)))

    def show(self, step: int) -> None:
        self.now.set_xdata([step, step])
