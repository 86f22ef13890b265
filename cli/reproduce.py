"""``gcref reproduce``: the paper figure by figure, its numbers and sentences beside ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcref.cli.common import command_line, json_text, print_whole, usage_errors
from gcref.cli.progress import progress_on_stderr
from gcref.cli.stopping import stopped
from gcref.cli.workers import warnings_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcref.validation.expected import Point
    from gcref.validation.reproducing import Outcome
    from gcref.validation.reproduction import Job, Plan


@click.command(short_help="Make the paper's figures, its numbers beside ours.")
@click.option("--figure", metavar="NAME", help="The figure, such as 4, or a panel of it, such as 4b; --list has all.")
@click.option("--list", "as_list", is_flag=True, help="Show what there is, what it costs and which data it needs.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="reproduced", show_default=True, metavar="DIR",
    help="Folder for results and figures; made if its parent exists.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A small grid, or a small model of the digits that ship: seconds.")
@click.option("--data-dir", type=click.Path(), help="Folder with the images; else $GCREF_DATA, then standard places.")
@click.option("--workers", type=click.IntRange(min=1), show_default="all cores", help="Processes, for random features.")
@click.option("--json", "as_json", is_flag=True, help="Print costs, numbers and verdicts as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace figures, and results of other configurations, in DIR.")
def reproduce(
    figure: str | None, as_list: bool, out: Path, quick: bool, data_dir: str | None, workers: int | None,
    as_json: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make a figure of the paper: run what it needs, draw it, and put the paper's numbers beside ours.

    The cost is stated before anything starts. Only the part of a grid that the figure needs is run; figures of the
    same runs share their results files in DIR, and a finished file is not run again. What is stopped is finished by
    the same command. Beside random features stand the paper's digitised points, and whether ours are within a factor
    of 2 (0.3 in log10); beside every figure what the paper says of it in words, judged by a rule fixed in advance. A
    verdict fails nothing: exit code 0 says that the figure was made.

    \b
    Examples:
      gcref reproduce --list
      gcref reproduce --figure 1
      gcref reproduce --figure 4b
      gcref reproduce --figure 8 --quick --out quick
      gcref reproduce --figure 3a --data-dir mnist
    """  # noqa: D301
    if (figure is None) is not as_list:
        raise click.UsageError("give --figure NAME or --list" + (", not both" if as_list else ""))
    from concurrent.futures.process import BrokenProcessPool

    from gcref.cores import n_cores
    from gcref.validation import reproducing, reproduction

    n_workers = workers or n_cores()
    if figure is None:
        _list(quick, n_workers, as_json)
        return
    with usage_errors():
        plan = reproduction.plan(figure.lower(), quick)
        _refuse_idle(plan, workers, data_dir)
        finished = reproducing.check(plan, out, data_dir, overwrite)
    cost = _cost(plan, n_workers, finished)
    _state(plan, cost, out, as_json)
    try:
        out.mkdir(exist_ok=True)
        for job in plan.jobs:
            if job.name not in finished:
                _run(job, out, n_workers, data_dir, overwrite)
        found = reproducing.outcome(plan, out, overwrite)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        stopped("What is finished is kept; the same command finishes it.")
    except (OSError, BrokenProcessPool, MemoryError) as error:
        message = f"{str(error) or 'out of memory'}; what is finished is kept, the same command finishes it"
        raise click.ClickException(message) from None
    if as_json:
        click.echo(json_text(cost | found.as_json()))
    else:
        _print(found, plan)


def _refuse_idle(plan: "Plan", workers: int | None, data_dir: str | None) -> None:
    """Refuse options that no run of a figure is concerned with."""
    from gcref.studies.grid import Sweep

    n_sweeps = sum(isinstance(job.config, Sweep) for job in plan.jobs)
    for flag, value, used, what in (
        ("--workers", workers, n_sweeps, "random features"),
        ("--data-dir", data_dir, len(plan.data_sets), "data files"),
    ):
        if value is not None and not used:
            raise click.UsageError(f"{flag}={value} has no meaning for Fig. {plan.figure}, which needs no {what}")


def _run(job: "Job", out: Path, n_workers: int, data_dir: str | None, overwrite: bool) -> None:
    """Run one job, showing how far it is."""
    from gcref.studies.grid import Sweep
    from gcref.validation import reproducing

    of_grid = isinstance(job.config, Sweep)
    total, what = (len(job.config.specs()), "trajectories") if of_grid else (job.config.iterations, "iterations")
    with progress_on_stderr(total, what) as progress, warnings_in_words():
        reproducing.run(job, out, n_workers, data_dir, command_line(), overwrite, progress)


# ----------------------------------------------------------------------------------------------------------------- cost


def _cost(plan: "Plan", n_workers: int, finished: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return what a plan is made of, and what it costs."""
    from gcref.validation.reproduction import seconds

    return {
        "figure": plan.figure, "shows": plan.shows, "trajectories": plan.n_trajectories,
        "estimated_seconds": round(seconds(plan, n_workers, finished)), "cores": n_workers,
        "data_sets": plan.data_sets, "left_out": plan.left_out, "runs": [job.name for job in plan.jobs],
        "finished": sorted(finished),
    }  # fmt: skip


def _state(plan: "Plan", cost: dict[str, Any], out: Path, to_stderr: bool) -> None:
    """Say what is going to be done."""
    from gcref.validation.reproducing import results
    from gcref.validation.reproduction import in_words

    n, cores = cost["trajectories"], cost["cores"]
    lines = [f"Fig. {plan.figure}: {plan.shows}"]
    for job in plan.jobs:
        state = ", finished already" if job.name in cost["finished"] else ""
        lines.append(f"  results   {results(job, out)}{state}")
    lines.append(
        f"  cost      {n} {'trajectory' if n == 1 else 'trajectories'}, {in_words(cost['estimated_seconds'])} on "
        f"{cores} core{'s' if cores > 1 else ''}" + (" from here on" if cost["finished"] else "")
    )
    if plan.left_out:
        lines.append(f"  left out  {plan.left_out}")
    click.echo("\n".join(lines), err=to_stderr)


def _list(quick: bool, n_workers: int, as_json: bool) -> None:
    """Show every figure with its cost."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gcref.validation.reproduction import in_words, plans

    costs = [_cost(plan, n_workers) for plan in plans(quick)]
    if as_json:
        click.echo(json_text(costs))
        return
    table = Table(title="The paper's figures" + (", in small" if quick else ""), box=SIMPLE_HEAD)
    for column in ("figure", "shows"):
        table.add_column(column, no_wrap=True)
    for column in ("trajectories", f"on {n_workers} core{'s' if n_workers > 1 else ''}"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("data", no_wrap=True)
    for cost in costs:
        time, sets = in_words(cost["estimated_seconds"]), ", ".join(cost["data_sets"]) or "none"
        table.add_row(cost["figure"], cost["shows"], str(cost["trajectories"]), time, sets)
    print_whole(table)
    click.echo("Times are rough. Figures of the same runs share them: after 4b, 9b takes seconds.")
    for words in dict.fromkeys(cost["left_out"] for cost in costs if cost["left_out"]):
        click.echo(f"Left out: {words}.")


# --------------------------------------------------------------------------------------------------------------- result


def _print(found: "Outcome", plan: "Plan") -> None:
    """Print numbers, sentences and files."""
    from gcref.validation.expected import verdict

    if found.points:
        _print_points(found.points)
        click.echo(verdict(plan.figure, found.points))
    elif found.measured:
        _print_measured(found.measured)
        beside = ", which are of its own data, not of these digits" if plan.left_out else ""
        click.echo(f"The paper gives no number for these curves, but for those in its sentences{beside}.")
    else:
        click.echo("The paper gives no number for this figure; its caption, point by point:")
    for claim in found.claims:
        click.echo(f"\n{claim.verdict.upper()}: {claim.says} ({claim.section})\n  measured  {claim.measured}")
        if claim.rule:
            click.echo(f"  rule      {claim.rule}")
    click.echo(f"\n{found.remark}" if found.remark else "")
    for path in found.files:
        click.echo(f"wrote {path}")


def _print_points(points: "Sequence[Point]") -> None:
    """Print every point of a figure beside the paper's."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gcref.panels import method_label

    table = Table(title="Ours beside the paper's", box=SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for column in ("learning\nrate", "dupli-\ncates", "h_s/N", "trajec-\ntories", "ours", "paper", "ours/\npaper"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("within a\nfactor of 2", no_wrap=True)
    for p in points:
        beside = ("no number", "", "")
        if p.paper is not None:
            beside = (f"{p.paper:.3g}", f"{p.ratio:.2f}", "yes" if p.within else "no")
        where = (f"{p.learning_rate:g}", f"{p.duplicate_fraction:.0%}", f"{p.overparametrization:g}")
        table.add_row(method_label(p.method), *where, str(p.n_trajectories), f"{p.ours:.3g}", *beside)
    print_whole(table)


def _print_measured(measured: "Sequence[dict[str, Any]]") -> None:
    """Print what every run measured last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from gcref.panels import method_label, methods_in_order

    methods = methods_in_order(measured[0]["variance"])
    table = Table(title="Ours, at the last measuring point", box=SIMPLE_HEAD)
    table.add_column("run", no_wrap=True)
    names = [method_label(method) for method in methods]
    columns = ("iteration", "train\nloss", "test\naccuracy", *names, *(f"{name}\n/{names[0]}" for name in names[1:]))
    for column in (*columns, f"normalized\n{names[0]}"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in measured:
        v = run["variance"]
        shares = [f"{v[m] / v['sgb']:.2g}" if v["sgb"] else "-" for m in methods[1:]]
        table.add_row(
            run["run"], str(run["iteration"]), f"{run['train_loss']:.3g}", f"{run['test_accuracy']:.1%}",
            *(f"{v[m]:.2e}" for m in methods), *shares, f"{run['normalized_variance']['sgb']:.3f}",
        )  # fmt: skip
    print_whole(table)
