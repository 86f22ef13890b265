"""What is built for others to install has everything that is needed, nothing else, and works from an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import gcref

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"gcref": "gcref", "cli": "gcref/cli", "validation": "gcref/validation", "data": "gcref/data"}
NOT_PYTHON = {
    "gcref/py.typed",
    "gcref/data/digits.npz",
    "gcref/data/rf_variance.csv",
    "gcref/report/page.css",
    "gcref/report/page.html.jinja",
    "gcref/report/page.js",
    "gcref/validation/benchmarks/baseline.json",
}


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of what is in the repository, so that building leaves nothing there."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "docs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out, source)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment that has the wheel, and sees what it depends on where we have it."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    packages = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # The .pth files in the folder that this one adds are not read, so that an editable gcref there stays unseen.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
    return programs


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"gcref-{gcref.__version__}.dist-info"
    modules = {
        f"{there}/{path.relative_to(ROOT / here).as_posix()}"
        for here, there in FOLDERS.items()
        for path in (ROOT / here).rglob("*.py")
    }
    assert {name for name in names if not name.startswith(f"{info}/")} == modules | NOT_PYTHON
    assert {f"{info}/METADATA", f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"} <= names


def test_it_works_from_an_empty_folder(installed, tmp_path):
    assert run(installed / "gcref", "--version", cwd=tmp_path) == f"gcref, version {gcref.__version__}\n"
    run(installed / "gcref", "toy", "--out", "toy.png", cwd=tmp_path)
    assert (tmp_path / "toy.png").read_bytes()[1:4] == b"PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"toy.png"}
    program = (
        "import gcref, gcref.cli, gcref.validation\n"
        "from gcref.validation.benchmarks import baseline\n"
        "print(len(gcref.data.load('digits')), len(gcref.data.reference()))\n"
        "print(*(module.__file__ for module in (gcref, gcref.cli, gcref.data, gcref.validation)), sep='\\n')\n"
    )
    first, *files = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert first == "1438 216"
    home = installed.parent
    assert all(home in Path(file).parents for file in files)
