"""Running tests on mutants, for `gcref.validation.mutants`: which tests reach a line, and a process to fail in.

All tests run once in this process, traced line by line; that loads NumPy and the compiled kernels, too. A mutant then
gets a forked process that imports the package and its tests anew, with the source of one module changed in memory; no
file is touched. POSIX only.
"""

import ast
import contextlib
import gc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 2 << 30  # bytes that a mutant may take beyond what is there
SLOWER = 3.0  # times as long as when it was traced, and ten seconds, may a test take

Place = tuple[str, int]  # file, line


class Failures:
    """Pytest plugin: the tests that failed, and the files that could not be imported."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that failed."""
        self.failed += [report.nodeid] * report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that failed."""
        self.failed += [report.nodeid] * report.failed

    def run(self, files: Sequence[str]) -> list[str]:
        """Run the tests of files until one fails; return what failed."""
        options = ["-x", "-p", "no:cacheprovider", "-p", "no:terminal", "--hypothesis-seed=0", f"--rootdir={ROOT}"]
        code = pytest.main([*options, *files], plugins=[self])
        return self.failed or ([] if code == pytest.ExitCode.OK else [f"pytest ended with {code!s}"])


class Watch(Failures):
    """Pytest plugin: besides, the lines of some files that each test reached, and the seconds it took."""

    def __init__(self, files: set[str]) -> None:
        super().__init__()
        self.files = files
        self.lines: dict[str, set[Place]] = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Trace a test with its fixtures."""
        seen = self.lines[item.nodeid] = set()

        def line(frame: FrameType, event: str, argument: Any) -> Callable:
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            return line

        def call(frame: FrameType, event: str, argument: Any) -> Callable | None:
            return line if frame.f_code.co_filename in self.files else None

        start = time.perf_counter()
        sys.settrace(call)
        yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.perf_counter() - start


class Only(Failures):
    """Pytest plugin: besides, some tests alone, in a given order."""

    def __init__(self, tests: Sequence[str]) -> None:
        super().__init__()
        self.order = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep these tests and sort them."""
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])


class Changed:
    """Import hook: one module, by its path from the root, has another source."""

    def __init__(self, module: str, source: str) -> None:
        self.name, self.path = module.removesuffix(".py").replace("/", "."), str(ROOT / module)
        self.source = source

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of that module, and no other's."""
        if name != self.name:
            return None
        loader = _Loader(name, self.path)
        loader.source = self.source
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


class _Loader(SourceFileLoader):
    """Loads a module from a given source."""

    source: str

    def get_code(self, fullname: str) -> CodeType:
        """Compile it."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Tests:
    """The tests of some files, and which of them reach what.

    Parameters
    ----------
    files : list of str
        The tests' files.
    modules : iterable of str
        Paths of the modules that will be changed, from the root.
    longest : float
        Seconds; tests that take longer are left out.

    Raises
    ------
    ValueError
        If a test fails on the modules as they are, run as mutants run them.
    """

    def __init__(self, files: Sequence[str], modules: Sequence[str], longest: float) -> None:
        watch = Watch({str(ROOT / module) for module in modules})
        self._refuse(watch.run(files))
        _forget({module.split("/")[0] for module in modules})
        self.seconds = {test: seconds for test, seconds in watch.seconds.items() if seconds <= longest}
        self.lines = {test: watch.lines[test] for test in self.seconds}
        self._refuse(self.failing(sorted(self.seconds, key=self.seconds.__getitem__), None))

    def _refuse(self, failed: list[str]) -> None:
        if failed:
            raise ValueError(f"the tests fail without a mutation: {failed[0]}")

    def reaching(self, module: str, line: int) -> list[str]:
        """Return the tests that reach the statement there, quickest first; of what runs at import, the module."""
        path = str(ROOT / module)
        first, last = statement(ast.parse(Path(path).read_text(encoding="utf-8")), line)
        touching = {test for test, lines in self.lines.items() if any(file == path for file, _ in lines)}
        there = {(path, number) for number in range(first, last + 1)}
        return sorted({t for t in touching if self.lines[t] & there} or touching, key=self.seconds.__getitem__)

    def failing(self, tests: Sequence[str], changed: Changed | None) -> list[str]:
        """Run tests in a forked process until one fails; return it, or the signal that ended the process."""
        limit = 10 + SLOWER * sum(self.seconds[test] for test in tests)
        return in_child(lambda: _run(tests, changed), limit) if tests else []


def statement(tree: ast.Module, line: int) -> tuple[int, int]:
    """Return the first and last line of the innermost statement at a line; of one with a body, those of its head."""
    spans = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.ExceptHandler)) and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            body = getattr(node, "body", None)
            spans.append((node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or 0))
    return max((span for span in spans if span[0] <= line <= span[1]), default=(line, line))


def in_child(task: Callable[[], list[str]], limit: float) -> list[str]:
    """Run a task that lists what failed in a forked process of at most `limit` seconds; return the first of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reader)
            signal.alarm(round(limit))
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            present = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (present + MEMORY, present + MEMORY))
            os.write(writer, json.dumps(task()[:1]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return [signal.Signals(os.WTERMSIG(status)).name]
    return list(json.loads(told or '["no report"]'))


def _run(tests: Sequence[str], changed: Changed | None) -> list[str]:
    """Run tests in this process on a changed module."""
    if changed is not None:
        sys.meta_path.insert(0, changed)
    return Only(tests).run(list(dict.fromkeys(test.split("::")[0] for test in tests)))


def _forget(packages: set[str]) -> None:
    """Drop packages and the tests, but for compiled kernels, from memory, so that children import them anew."""
    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in packages and not name.startswith("gcref.kernels")
        if ours or str(getattr(module, "__file__", None)).startswith(str(ROOT / "tests")):
            del sys.modules[name]
    gc.collect()
    gc.freeze()
