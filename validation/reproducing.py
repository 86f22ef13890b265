"""Make a figure of the paper: check that nothing stands in the way, run what is missing, draw, and judge.

A plan of `gcref.validation.reproduction` says what is to be made; everything goes into one folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcref import data, figures, image_figures, panels, shards, store, toy_figure
from gcref.data.imagefolder import has_images
from gcref.data.places import find
from gcref.store import StoreError
from gcref.studies import toy
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.studies.sweep import run_sweep
from gcref.validation import expected, figure_1, section_4_1
from gcref.validation.expected import Point
from gcref.validation.reproduction import RATES, SHARES, Job, Plan
from gcref.validation.verdicts import Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
STILL = 5  # of Fig. 1, as `gcref toy` draws it: clusters of both classes have formed, and boundaries still differ
TOY = {"n_points": 100, "noise": 1.0}  # the paper gives neither

Progress = Callable[[int, float], None]


@dataclass
class Outcome:
    """What came out beside what the paper has.

    Attributes
    ----------
    claims : list of Claim
        What the paper says of the figure, judged.
    points : list of Point
        Of random features.
    measured : list of dict
        Of images, one a run: the last measuring point.
    files : list of Path
        The figure.
    remark : str
        Why no sentence is judged, if so.
    """

    claims: Sequence[Claim] = ()
    points: Sequence[Point] = ()
    measured: Sequence[dict[str, Any]] = ()
    files: Sequence[Path] = field(default_factory=list)
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values; a number that is not known is None."""
        points = [p._asdict() | {"ratio": p.ratio, "within_a_factor_of_2": p.within} for p in self.points]
        return {
            "points": points, "measured": list(self.measured), "sentences": [vars(claim) for claim in self.claims],
            "remark": self.remark, "files": [str(path) for path in self.files],
        }  # fmt: skip


def results(job: Job, out: Path) -> Path:
    """Return where the results of a run are."""
    return out / f"{job.name}.h5"


def pictures(plan: Plan, out: Path) -> list[Path]:
    """Return the files of the figure."""
    return [out / f"figure{_name(plan)}.{form}" for form in FORMATS]


def _name(plan: Plan) -> str:
    return plan.figure + ("-quick" if plan.left_out else "")


def check(plan: Plan, out: Path, data_dir: str | None = None, overwrite: bool = False) -> frozenset[str]:
    """Refuse what could not be made, touching nothing; return the names of the runs that are finished already.

    Raises
    ------
    ValueError
        If `out` cannot be the folder, or has the figure or results of another configuration, and `overwrite` is false;
        or if data are missing or damaged (`gcref.data.DataError`, which says what to get).
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is not a folder")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    there = [path.name for path in pictures(plan, out) if path.exists()]
    if there and not overwrite:
        raise ValueError(f"{out} already has {', '.join(there)}; give another --out, or --overwrite to replace them")
    finished = {job.name for job in plan.jobs if out.is_dir() and _is_finished(job, out, overwrite)}
    todo = [job.config for job in plan.jobs if job.name not in finished]
    needed = {config.dataset for config in todo if isinstance(config, ImageRun)}
    for name in plan.data_sets:
        if name in needed:
            _check_data(name, data_dir)
    return frozenset(finished)


def _check_data(name: str, data_dir: str | None) -> None:
    """Raise if a data set is missing, or damaged; a folder of images is only looked for, as reading it decodes all."""
    if name == "imagefolder":
        find(name, data_dir, has_images)
        return
    for split in ("train", "test"):
        data.load(name, split, data_dir)


def _is_finished(job: Job, out: Path, overwrite: bool) -> bool:
    """Tell a finished file of this configuration, which is kept; refuse another one unless it may be replaced."""
    path, config = results(job, out), job.config.to_json()
    try:
        return shards.check(path, config) == "finished"
    except StoreError:
        shards.check(path, config, overwrite)
        return False


def run(
    job: Job, out: Path, n_workers: int, data_dir: str | None = None, command: str = "", overwrite: bool = False,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Run what is missing of a job; all errors are those of `run_sweep` and `run_image`."""
    path = results(job, out)
    if isinstance(job.config, ImageRun):
        run_image(job.config, path, data_dir, command, overwrite, progress)
    else:
        run_sweep(job.config, path, n_workers, command, overwrite, progress)


def outcome(plan: Plan, out: Path, overwrite: bool = False) -> Outcome:
    """Draw the figure from finished results, and put the paper's numbers and words beside ours.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, drawn or written.
    """
    if plan.figure == "1":
        return _toy(plan, out)
    paths = [results(job, out) for job in plan.jobs]
    if plan.figure[0] in "367":
        return _images(plan, paths, out, overwrite)
    summary = store.read_summary(paths[0])
    files = panels.save({f"Fig. {_name(plan)}": partial(_draw, plan.figure, summary)}, out, FORMATS, overwrite)
    return Outcome(expected.sentences(plan.figure, paths[0]), expected.points(plan.figure, summary), files=files)


def _draw(name: str, summary: Any) -> "Figure":
    """Draw a figure of random features, or a panel of it alone."""
    number, letter = name[0], name[1:]
    if not letter:
        return figures.drawings(summary)[f"Fig. {number}"]()
    if number == "8":
        return figures.panel(summary, name, 0.01, SHARES[letter])
    return figures.panel(summary, name, RATES.get(letter), 0.0)


def _toy(plan: Plan, out: Path) -> Outcome:
    """Train the toy with the seed and the size that ``gcref toy`` has."""
    found = toy.train(toy.separable(**TOY))  # type: ignore[arg-type]
    files = pictures(plan, out)
    for path in files:
        toy_figure.save(found, path, path.suffix[1:], STILL)
    return Outcome(figure_1.judge(found, STILL), files=files)


def _images(plan: Plan, paths: Sequence[Path], out: Path, overwrite: bool) -> Outcome:
    """Draw image runs and judge what is said of them."""
    runs = [image_figures.read_run(path) for path in paths]
    drawing = image_figures.drawings(runs)[f"Fig. {plan.figure[0]}"]
    files = panels.save({f"Fig. {_name(plan)}": drawing}, out, FORMATS, overwrite)
    claims: Sequence[Claim] = ()
    remark = ""
    try:
        claims = section_4_1.judge(plan.figure, paths)
    except StoreError:
        raise
    except ValueError as error:  # it diverged early
        remark = f"No sentence can be judged: {error}."
    return Outcome(claims, measured=[_last(path) for path in paths], files=files, remark=remark)


def _last(path: Path) -> dict[str, Any]:
    """Return what was measured last."""
    attrs, series = store.read_trajectory(path)
    last = {name: float(values[-1]) for name, values in series.items() if name != "iteration"}
    by_method = {
        kind: {name.split("/")[1]: value for name, value in last.items() if name.startswith(f"{kind}/")}
        for kind in ("variance", "normalized_variance")
    }
    plain = {name: value for name, value in last.items() if "/" not in name}
    iteration = int(series["iteration"][-1])
    return {"run": path.stem, "status": str(attrs["status"]), "iteration": iteration, **plain, **by_method}
