"""Our variances beside the points read off the paper's figures.

``python -m gcref.validation.paper_points results.h5 [duplicates.h5]``

Claim: over the digitised points of the average variance (mean and maximum over the last 70 %) of SG-B, SG-2B
and GC, 90 % of ours lie within a factor of 2 (0.3 in log10) of the paper's. Ours are exact and the paper's a
Monte Carlo of ten draws on other seeds. SVRG is shown apart. Exit 0 if the claim holds, 1 if not.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcref.data import reference
from gcref.store import StoreError, read_summary

TOLERANCE = 0.3
SHARE = 0.9
JUDGED = ("sgb", "sg2b", "gc")


def log_ratios(summary: np.ndarray) -> np.ndarray:
    """Compare every digitised point of the variance that a summary can judge.

    Parameters
    ----------
    summary : ndarray
        As `gcref.store.read_summary` returns it.

    Returns
    -------
    ndarray, structured: method, duplicate_fraction, aggregate, overparametrization, log10_ratio
        One row a point: log10 of our mean over seeds, input dimensions and teachers over the paper's value.
    """
    out = []
    for point in reference():
        if point["statistic"] != "variance":
            continue
        same = summary["method"] == str(point["method"]).encode()
        for field in ("learning_rate", "duplicate_fraction", "overparametrization"):
            same &= np.isclose(summary[field], point[field])
        values = summary[f"variance_{point['aggregate']}"][same]
        values = values[np.isfinite(values)]
        if len(values):
            key = (str(point["method"]), point["duplicate_fraction"], str(point["aggregate"]))
            ours = max(values.mean(), np.finfo(float).tiny)  # exactly zero where the batch is all there is
            out.append((*key, point["overparametrization"], np.log10(ours / point["value"])))
    names = [("method", "U8"), ("duplicate_fraction", "f8"), ("aggregate", "U8")]
    return np.array(out, [*names, ("overparametrization", "f8"), ("log10_ratio", "f8")])


def compare(paths: Sequence[Path]) -> tuple[str, bool]:
    """Compare files with the paper's points.

    Returns
    -------
    text : str
        A line for each share of duplicates and kind of method, and the verdict.
    passed : bool
        Whether the claim holds; False if the files hold no point that the paper has.
    """
    points = log_ratios(np.concatenate([read_summary(path) for path in paths]))
    lines = ["|log10(ours / paper's)| at the digitised points   n    50 %   90 %   largest   within 0.3"]
    judged = np.isin(points["method"], JUDGED)
    for fraction in np.unique(points["duplicate_fraction"]):
        here = points["duplicate_fraction"] == fraction
        for name, chosen in (("SG-B, SG-2B, GC", judged), ("SVRG", ~judged)):
            lines.append(_line(f"duplicates {fraction:.0%}, {name}", points["log10_ratio"][here & chosen]))
    distances = np.abs(points["log10_ratio"][judged])
    share = float(np.mean(distances <= TOLERANCE)) if len(distances) else 0.0
    passed = share >= SHARE
    found = (
        f"{share:.1%} of SG-B, SG-2B, GC within {TOLERANCE}" if len(distances) else "no digitised point in the files"
    )
    lines.append(f"{'PASS' if passed else 'FAIL'}: {found}, expected {SHARE:.0%}")
    return "\n".join(lines), passed


def _line(name: str, ratios: np.ndarray) -> str:
    """One line of the table."""
    if not len(ratios):
        return f"{name:46} {0:3}"
    half, most, largest = np.percentile(np.abs(ratios), [50, 90, 100])
    within = np.mean(np.abs(ratios) <= TOLERANCE)
    return f"{name:46} {len(ratios):3}   {half:.3f}  {most:.3f}   {largest:.3f}     {within:.0%}"


def main() -> int:
    """Print the comparison; return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("results", type=Path, nargs="+", help="files of gcref rf-sweep")
    try:
        text, passed = compare(parser.parse_args().results)
    except StoreError as error:
        print(f"Error: {error}")
        return 2
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
