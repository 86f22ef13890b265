"""The command line: thin commands that parse, call and print.

Modules here import nothing heavy at the top, so that ``gcref --help`` answers at once.
"""

import io
import os
import sys

import click

from gcref import __version__
from gcref.cli.bench import bench
from gcref.cli.cluster import cluster
from gcref.cli.common import printable
from gcref.cli.export import export
from gcref.cli.figures import figures
from gcref.cli.image import image
from gcref.cli.info import info, warmup
from gcref.cli.report import report
from gcref.cli.reproduce import reproduce
from gcref.cli.rf_sweep import rf_sweep
from gcref.cli.show import show
from gcref.cli.stopping import heed_signals, stopped
from gcref.cli.toy import toy
from gcref.cli.validate import validate
from gcref.cores import BLAS_VARIABLES


class _Commands(click.Group):
    """A group whose commands end at Ctrl-C with a word, not a traceback, and whose errors leave the terminal alone."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            return stopped()
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)  # it may quote a file that nobody here wrote
            raise


COMPLETION = """\b
Tab completes commands and options after
  eval "$(_GCREF_COMPLETE=bash_source gcref)"     in ~/.bashrc; zsh_source in ~/.zshrc
"""


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=COMPLETION,
)
@click.version_option(__version__, prog_name="gcref")
def cli() -> None:
    """How noisy is a mini-batch gradient, exactly, and how much does clustering gradients help?

    \b
    gcref rf-sweep --quick --out quick.h5     a small sweep, in seconds
    gcref image --dataset digits --iterations 1000 --out d.h5    an image model, measured
    gcref figures quick.h5 --out figures      the paper's figures from it
    gcref toy --out toy.gif                   clusters of gradients, seen (Fig. 1)
    gcref reproduce --figure 4b               a figure of the paper, its numbers beside ours
    gcref cluster traces.h5 --out labels.npz  clusters of any model's gradients
    gcref validate quick.h5                   recompute its numbers from scratch
    gcref report quick.h5 --out quick.html    all of it on one page, to be sent
    """  # noqa: D301, D400


for command in (
    rf_sweep, image, cluster, figures, reproduce, show, export, report, validate, toy, bench, info, warmup,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Run the command line; whatever goes wrong, the user sees one sentence."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an encoding without ≥ or Φ is no reason to stop
    heed_signals()
    for name in BLAS_VARIABLES:  # read when NumPy is loaded: BLAS sums in another order on several threads
        os.environ[name] = "1"
    try:
        cli(prog_name="gcref")
    except Exception as error:  # the last resort: a traceback is for developers
        if os.environ.get("GCREF_TRACEBACK"):
            raise
        message = printable(str(error).split("\n")[0])
        click.echo(f"Error: {type(error).__name__}: {message} (GCREF_TRACEBACK=1 shows where)", err=True)
        sys.exit(1)
