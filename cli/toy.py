"""``gcref toy``: Fig. 1, clusters of gradients while a linear classifier learns, as a picture, a film or a window."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcref.cli.common import new_file, usage_errors

if TYPE_CHECKING:
    from gcref.studies.toy import Toy

FORMATS = ("png", "svg", "pdf", "gif", "mp4")
STILL = 5  # the step of a still: clusters of both classes have formed, and boundaries still differ


@click.command(short_help="Draw Fig. 1, clusters of gradients while a model learns.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="File for a still or a film.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), show_default="what FILE ends in",
    help="A still (png, svg, pdf), or a film of all steps (gif; mp4, which needs ffmpeg).",
)  # fmt: skip
@click.option("--show", is_flag=True, help="Play the film in a window, with a slider.")
@click.option("--step", type=click.IntRange(min=0), show_default=f"{STILL}", help="The step that a still shows.")
@click.option("--n-points", type=int, default=100, show_default=True, help="Points, N.")
@click.option("--n-clusters", type=click.IntRange(1, 8), default=4, show_default=True, help="Clusters, K = B.")
@click.option(
    "--noise", type=float, default=1.0, show_default=True,
    help="Spread of a class; the centres are 4 apart, and the classes are always separable.",
)  # fmt: skip
@click.option("--learning-rate", type=float, default=0.5, show_default=True, help="Of gradient descent.")
@click.option("--n-steps", type=int, default=30, show_default=True, help="Steps of gradient descent.")
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True,
    help="Seed of the points, the first boundary and the first clusters.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def toy(
    out: Path | None,
    form: str | None,
    show: bool,
    step: int | None,
    n_points: int,
    n_clusters: int,
    noise: float,
    learning_rate: float,
    n_steps: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Train a linear classifier of two separable classes, clustering its gradients at every step (Fig. 1).

    Points have the colour of their cluster, which it keeps from step to step. The black line is the boundary
    between the classes now, a broken one where it would go by a step along the mean gradient of one cluster
    alone. Beside them, exactly: the variance of a plain mini-batch of K points, SG-K, and that of GC, one
    point from each of K clusters (Eq. 1), averaged over the three coordinates of the gradient.

    In the window, space stops the film and lets it go on; the arrow keys go by one step.

    \b
    Examples:
      gcref toy --out toy.png
      gcref toy --out toy.gif
      gcref toy --out many.svg --n-points 1000 --n-clusters 8 --noise 1.5 --step 12
      gcref toy --show --seed 3
    """  # noqa: D301
    if out is None and not show:
        raise click.UsageError("give --out FILE for a picture or a film, or --show for a window")
    if out is not None:
        form = form or _form(out)
        new_file(out, overwrite)
    _check_step(step, form, n_steps)
    from gcref import toy_figure
    from gcref.studies.toy import separable, train

    if show:
        try:
            toy_figure.check_window()
        except RuntimeError as error:
            raise click.UsageError(f"--show: {error}; --out FILE needs none") from None
    with usage_errors():
        result = train(separable(n_points, noise, seed), n_clusters, learning_rate, n_steps, seed)
    if out is not None and form is not None:
        try:
            with usage_errors():
                toy_figure.save(result, out, form, min(STILL, n_steps) if step is None else step)
        except OSError as error:
            raise click.ClickException(str(error)) from None
    _print(result)
    if out is not None:
        click.echo(f"wrote {out}")
    if show:
        toy_figure.window(result)


def _form(out: Path) -> str:
    """Return the format that a name ends in."""
    form = out.suffix[1:].lower()
    if form not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise click.UsageError(f"--out {out}: a name that ends in one of {endings} is expected, or --format")
    return form


def _check_step(step: int | None, form: str | None, n_steps: int) -> None:
    """Refuse a step that no still could show."""
    if step is None:
        return
    if form not in FORMATS[:3]:
        raise click.UsageError(f"--step {step} is for a still; a film and a window show every step")
    if step > n_steps:
        raise click.UsageError(f"--step {step} is beyond --n-steps {n_steps}")


def _print(result: "Toy") -> None:
    """Say how the variances compare."""
    k = result.n_clusters
    for step in sorted({0, min(STILL, result.n_steps), result.n_steps}):
        sgb, gc = (float(result.variance[name][step]) for name in ("sgb", "gc"))
        share = f", {gc / sgb:.0%} of it" if sgb else ""
        click.echo(f"step {step}: variance of SG-{k} {sgb:.3g}, of GC {gc:.3g}{share}")
