"""What the pages of the documentation take from the code: results, figures, quoted source and the commands' help.

Markdown with three kinds of fenced blocks of its own:

- ``python``, on the pages `EXECUTED`: run, one after the other in one namespace; what a
  block prints is shown below it, and what it saves under ``figures/`` can be shown by the
  page. A page whose code fails is not built.
- ``{source} gcref.MODULE.NAME``: replaced by the source of that function, class or method,
  so that none is retyped.
- ``{commands}``: replaced by every command's own help.

``python docs/pages.py PAGE`` runs one page in the present folder, where its figures go, and
prints what its blocks print, as JSON.
"""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# On other pages Python is shown, and not run.
EXECUTED = ("index.md", "extending.md", "tutorial/*.md")
SECONDS = 60.0  # what a page may take
_PRINTED = "\n\n```{{code-block}} text\n:class: output\n\n{}\n```"
_FENCE = re.compile(r"^```(python|\{source\} *\S+|\{commands\})\n(.*?)^```$", re.S | re.M)


class PageError(Exception):
    """A page that cannot be built, and why."""


def executed() -> list[Path]:
    """Return the pages whose Python is run."""
    return [
        page for pattern in EXECUTED for page in sorted(DOCS.glob(pattern)) if code_of(page)
    ]


def code_of(page: Path) -> list[tuple[int, str]]:
    """Return each Python block of a page and the line it begins on."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in _FENCE.finditer(text)
        if found[1] == "python"
    ]


def run(page: Path) -> list[str]:
    """Run the blocks of a page here, in one namespace and the present folder; return what each printed."""
    blocks = code_of(page)
    if any("figures/" in code for _, code in blocks):
        Path("figures").mkdir(exist_ok=True)
    namespace = {"__name__": "__main__"}
    outputs = []
    for line, code in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Empty lines before the code, so that an error names the line of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        outputs.append(printed.getvalue())
    return outputs


def run_apart(page: Path, folder: Path, seconds: float = SECONDS) -> list[str]:
    """Run a page as `run` does, in a Python of its own whose present folder is `folder`.

    Raises
    ------
    PageError
        If its code fails, warns, or takes longer than `seconds`.
    """
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(__file__).resolve()),
        str(page.resolve()),
    ]
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=seconds,
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired:
        raise PageError(f"{page} takes longer than {seconds:g} s") from None
    if done.returncode:
        raise PageError(f"{page} fails:\n{done.stderr}")
    return json.loads(done.stdout)


def source(name: str) -> tuple[str, str]:
    """Return the file, as ``gcref/kernels/cpu.py``, and the source of a function, class or method by its dotted name.

    Raises
    ------
    PageError
        If there is none of that name.
    """
    module, inside = _split(name)
    text = Path(find_spec(module).origin).read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in inside:
        named = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part]
        node = named[0] if named else ast.Pass()
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        raise PageError(f"{module} defines no {'.'.join(inside)}")
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return module.replace(".", "/") + ".py", textwrap.dedent("\n".join(lines)) + "\n"


def _split(name: str) -> tuple[str, list[str]]:
    """Split a dotted name into the longest module there is and what is left."""
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            if find_spec(".".join(parts[:n])) is not None:
                return ".".join(parts[:n]), parts[n:]
    raise PageError(f"{name} is in no module")


def command_help() -> Iterator[tuple[str, str]]:
    """Yield every command of ``gcref``, itself first, and its help at 90 columns."""
    import click

    from gcref.cli import cli

    width = {"terminal_width": 90, "max_content_width": 90}
    with cli.make_context("gcref", [], resilient_parsing=True, **width) as group:
        yield "gcref", cli.get_help(group)
        for name in cli.list_commands(group):
            command = cli.get_command(group, name)
            with click.Context(command, group, name, **width) as context:
                yield f"gcref {name}", command.get_help(context)


def rendered(text: str, outputs: list[str] | None) -> str:
    """Return a page as it is shown: results below the blocks that print them, quoted source, the commands' help.

    `outputs` are what its Python blocks printed; None if they are not run.
    """
    left = repeat("") if outputs is None else iter(outputs)

    def fill(found: re.Match[str]) -> str:
        kind, *names = found[1].split()
        if kind == "python":
            printed = next(left).rstrip()
            return found[0] + (_PRINTED.format(printed) if printed else "")
        if kind == "{source}":
            where, code = source(names[0])
            return f"```{{code-block}} python\n:caption: {where}\n\n{code}```"
        return "\n\n".join(
            f"## {name}\n\n```text\n{text}\n```" for name, text in command_help()
        )

    return _FENCE.sub(fill, text)


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
