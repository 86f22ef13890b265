"""The house stays as it is drawn in CONTRIBUTING: who may import whom, and what is kept out."""

import ast
import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("gcref", "cli", "validation", "data")
INSTALLED = {"gcref.cli": "cli", "gcref.validation": "validation", "gcref.data": "data"}
# A module may import modules of its own height, a floor of the drawing, or lower.
HEIGHT = {
    "gcref/kernels": 0,
    "data": 0,
    "gcref/hdf5": 0,
    "gcref/store": 0,
    "gcref/shards": 0,
    "gcref/atomic": 0,
    "gcref/executor": 0,
    "gcref/cores": 0,
    "gcref/engine": 1,
    "gcref/trace_files": 1,
    "gcref/sampling": 3,
    "gcref/clustering": 2,
    "gcref/estimators": 3,
    "gcref/closed_form": 4,
    "gcref/variance": 4,
    "gcref/figure_plan": 4,
    "gcref/figures": 4,
    "gcref/image_figures": 4,
    "gcref/image_panels": 4,
    "gcref/panels": 4,
    "gcref/report": 4,
    "gcref/tables": 4,
    "gcref/contents": 4,
    "gcref/export": 4,
    "gcref/studies": 5,
    "gcref/toy_figure": 5,
    "validation": 6,
    "cli": 7,
}
# Machine code is made in one place, and written by hand in another.
COMPILERS = {
    "numba": {"gcref/kernels/jit.py", "gcref/kernels/tile.py"},
    "llvmlite": {"gcref/kernels/tile.py"},
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def room(name: str) -> str | None:
    """The room of a path or dotted module, the most particular that matches."""
    for dotted, folder in INSTALLED.items():
        if name == dotted or name.startswith(dotted + "."):
            name = folder + name[len(dotted) :]
    name = name.replace(".", "/")
    hits = [key for key in HEIGHT if name == key or name.startswith(key + "/")]
    return max(hits, key=len, default=None)


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file; none is imported relatively."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_drawing_is_of_this_house() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## The house\n")[1].split("\n## ")[0]
    drawn, floor = {}, -1
    for number, names in re.findall(r"^    (\d|(?= ))   ([a-z_5 ]+)$", text, re.MULTILINE):
        floor = int(number) if number else floor
        drawn |= dict.fromkeys(names.split(), floor)
    assert drawn == {key.removeprefix("gcref/"): height for key, height in HEIGHT.items()}
    table = {name.removesuffix(".py").removeprefix("gcref/") for name in re.findall(r"`([\w./]+)`", text)}
    assert drawn.keys() <= table


def test_every_module_has_a_room() -> None:
    homeless = [path for path in FILES if room(path.relative_to(ROOT).with_suffix("").as_posix()) is None]
    assert homeless == [ROOT / "gcref" / "__init__.py"]
    assert all((ROOT / key).is_dir() or (ROOT / f"{key}.py").is_file() for key in HEIGHT)


def test_room_knows_the_house() -> None:
    assert room("gcref.clustering.exact") == "gcref/clustering"
    assert room("gcref.cli.rf_sweep") == "cli"
    assert room("gcref/variance") == "gcref/variance"
    assert room("numpy") is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_no_room_above(path: Path) -> None:
    here = room(path.relative_to(ROOT).with_suffix("").as_posix())
    for module in imports(path):
        there = room(module)
        if here is not None and there is not None:
            assert HEIGHT[there] <= HEIGHT[here], f"{path} imports {module}, a room above its own"
        allowed = COMPILERS.get(module.split(".")[0])
        if allowed is not None:
            assert path.relative_to(ROOT).as_posix() in allowed, f"{path} imports {module}; only {allowed} may"
        if module.split(".")[0] in {"torch", "sklearn"}:
            assert here == "validation", f"{path} imports {module}; the package itself may not"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path} has {text.count(chr(10))} lines"
    assert "pickle.load" not in text
    assert "allow_pickle=True" not in text


def test_oracles_owe_nothing_to_the_package() -> None:
    for path in (ROOT / "validation").glob("naive*.py"):
        assert {module.split(".")[0] for module in imports(path)} <= {"math", "numpy"}, path


def test_kernels_made_of_tiles_are_compiled_again_when_the_tile_changes() -> None:
    digest = hashlib.sha256((ROOT / "gcref/kernels/tile.py").read_bytes()).hexdigest()[:12]
    text = (ROOT / "gcref/kernels/convolution.py").read_text(encoding="utf-8")
    assert f"tile.py {digest}" in text, f"write 'tile.py {digest}' into convolution.py"
