"""Mutation testing of clustering, estimators and variance: ``python -m gcref.validation.mutants FILE``.

Cosmic Ray's operators say how a line can be wrong: another arithmetic or comparison operator, a number off by one, a
condition turned round, a loop that is never entered, a decorator left out. Each mutant takes the place of its module in
a process of its own, and the tests that reach its statement are run, quickest first, until one fails (or takes far too
long: that counts as a failure). One that no test fails on has survived: read it, and write the test that it asks for,
or say why nothing can tell it from the module.

Left out are mutants that nothing can tell, or that anything can: of type annotations, of Protocol classes, of the texts
of errors that are raised, bit operators in the place of arithmetic ones, ``is`` in the place of ``==``. Tests that take
longer than ``--longest`` seconds are left out as well, so that the score is, if anything, too low.

FILE has one JSON object a line, for each mutant tried. The same command, given again, goes on where it was stopped;
with ``--again`` it tries once more what has survived. Needs cosmic-ray, the extra `test`, a checkout, and POSIX.
"""

import argparse
import ast
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from gcref.validation.mutants_run import ROOT, Changed, Tests

MODULES = ("gcref/clustering/*.py", "gcref/estimators.py", "gcref/variance.py", "gcref/closed_form.py")
TESTS = (
    "tests/clustering/test_*.py",
    "tests/test_estimators.py",
    "tests/test_chunks.py",
    "tests/test_variance*.py",
    "tests/test_closed_form.py",
)
ARITHMETIC = "(?:Add|Sub|Mul|Div|FloorDiv|Mod|Pow)"
ORDER = "(?:Eq|NotEq|Lt|LtE|Gt|GtE)"
OPERATORS = re.compile(
    f"core/(?:ReplaceBinaryOperator_(?:{ARITHMETIC}_{ARITHMETIC}|LShift_RShift)"
    f"|ReplaceComparisonOperator_(?:{ORDER}_{ORDER}|Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_Delete_.*"
    "|Replace(?:TrueWithFalse|FalseWithTrue|AndWithOr|OrWithAnd|BreakWithContinue|ContinueWithBreak)"
    "|AddNot|NumberReplacer|RemoveDecorator|ExceptionReplacer|ZeroIterationForLoop)"
)

Place = tuple[int, int]  # line from 1, column from 0


@dataclass(frozen=True)
class Mutant:
    """One change of one module: an operator of Cosmic Ray, which of the places where it applies, and what is there."""

    module: str
    operator: str
    occurrence: int
    line: int
    text: str


@dataclass(frozen=True)
class Result:
    """What became of a mutant: its changed line; the test or signal that ended it, if one did."""

    mutant: Mutant
    changed: str
    killer: str


# ------------------------------------------------------------------------------------------------ the mutants


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, a path from the root, that could matter."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (ROOT / module).read_text(encoding="utf-8")
    ignored = list(_ignored(ast.parse(source)))
    # Cosmic Ray takes the "/" of positional-only parameters for a division.
    nodes = [node for node in ast_nodes(get_ast(source)) if getattr(node.parent, "type", "") != "parameters"]
    lines = source.splitlines()
    for operator in filter(OPERATORS.fullmatch, sorted(plugins.operator_names())):
        positions = plugins.get_operator(operator)().mutation_positions
        for occurrence, start in enumerate(start for node in nodes for start, _ in positions(node)):
            if not any(first <= start < last for first, last in ignored):
                yield Mutant(module, operator, occurrence, start[0], lines[start[0] - 1].strip())


def mutated(source: str, operator: str, occurrence: int) -> str:
    """Return the source of a module with one mutation."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    return str(mutate_code(source, plugins.get_operator(operator)(), occurrence))


def difference(old: str, new: str) -> str:
    """Return the lines of a source in which it differs from an older one."""
    a, b = old.splitlines(), new.splitlines()
    most = min(len(a), len(b))
    head = next((i for i in range(most) if a[i] != b[i]), most)
    tail = next((i for i in range(most - head) if a[-1 - i] != b[-1 - i]), most - head)
    return " ".join(map(str.strip, b[head : len(b) - tail]))


def _ignored(tree: ast.Module) -> Iterator[tuple[Place, Place]]:
    """Yield where in a module a mutation says nothing: annotations, protocols, the texts of errors."""
    for node in ast.walk(tree):
        found: list[ast.expr | ast.stmt | None] = []
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            found = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            found = [node.returns]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found = [*node.exc.args]
        elif isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases):
            found = [*node.body]
        for each in found:
            if each is not None:
                decorators = getattr(each, "decorator_list", [])
                first = (decorators[0].lineno, 0) if decorators else (each.lineno, each.col_offset)
                yield first, (each.end_lineno or each.lineno, each.end_col_offset or each.col_offset)


def sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """Draw mutants without replacement: of each module in proportion to how many it has, and at least one.

    A larger sample holds a smaller one, and the modules take turns, so that a run cut short is a sample, too.
    """
    groups = defaultdict(list)
    for mutant in mutants:
        groups[mutant.module].append(mutant)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = []
    for group in groups.values():
        n = min(len(group), max(1, round(size * len(group) / len(mutants))))
        drawn += [((turn + 0.5) / n, group[i]) for turn, i in enumerate(rng.permutation(len(group))[:n])]
    return [mutant for _, mutant in sorted(drawn, key=lambda pair: pair[0])]


# ------------------------------------------------------------------------------------------------ the results


def attempt(mutant: Mutant, tests: Tests) -> Result:
    """Run the tests that reach a mutant until one fails."""
    source = (ROOT / mutant.module).read_text(encoding="utf-8")
    new = mutated(source, mutant.operator, mutant.occurrence)
    failed = tests.failing(tests.reaching(mutant.module, mutant.line), Changed(mutant.module, new))
    return Result(mutant, difference(source, new), "".join(failed))


def read(path: Path) -> list[Result]:
    """Return the results of a file; none where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [Result(Mutant(**entry.pop("mutant")), **entry) for entry in found]


def write(path: Path, results: Sequence[Result], mode: str) -> None:
    """Write results, or append them."""
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(result), ensure_ascii=False) + "\n" for result in results)


def wilson(killed: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z = 1.96
    middle, half = killed + z**2 / 2, z * sqrt(killed * (n - killed) / n + z**2 / 4)
    return (middle - half) / (n + z**2), (middle + half) / (n + z**2)


def report(results: Sequence[Result], totals: dict[str, int]) -> str:
    """Return the score by module and over all, and the survivors."""
    lines = [f"{'module':<34} {'mutants':>8} {'tried':>6} {'killed':>7} {'score':>7}"]
    for name, total in {**totals, "all": sum(totals.values())}.items():
        of = [result for result in results if name in ("all", result.mutant.module)]
        killed = sum(bool(result.killer) for result in of)
        lines.append(f"{name:<34} {total:>8} {len(of):>6} {killed:>7} {killed / len(of):>7.1%}")
    low, high = wilson(killed, len(of))
    lines.append(f"95 % interval of the score over all mutants (Wilson): {low:.1%} to {high:.1%}")
    for result in (result for result in results if not result.killer):
        m = result.mutant
        lines.append(f"survived: {m.module}:{m.line} {m.operator} {m.occurrence}\n  - {m.text}\n  + {result.changed}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code, 0 if the score is at least the one asked for."""
    parser = argparse.ArgumentParser(prog="python -m gcref.validation.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="the results, gone on with if it is there")
    parser.add_argument("--sample", type=int, default=400, help="mutants drawn, over all modules (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of the longest test used (default 2)")
    parser.add_argument("--again", action="store_true", help="try again what has survived")
    parser.add_argument("--least", type=float, default=0.85, help="a lower score is a failure (default 0.85)")
    options = parser.parse_args(argv)
    modules = [path.relative_to(ROOT).as_posix() for pattern in MODULES for path in sorted(ROOT.glob(pattern))]
    mutants = [mutant for module in modules for mutant in mutants_of(module)]
    drawn = sample(mutants, options.sample, options.seed)
    results = [result for result in read(options.file) if result.mutant in drawn]
    if options.again:
        results = [result for result in results if result.killer]
    write(options.file, results, "w")
    left = [mutant for mutant in drawn if mutant not in {result.mutant for result in results}]
    if left:
        tests = Tests([str(path) for pattern in TESTS for path in sorted(ROOT.glob(pattern))], modules, options.longest)
        for mutant in left:
            results.append(attempt(mutant, tests))
            write(options.file, results[-1:], "a")
    print(report(results, Counter(mutant.module for mutant in mutants)))
    score = sum(bool(result.killer) for result in results) / len(results)
    return 0 if score >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
