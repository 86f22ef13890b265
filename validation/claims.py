"""The sentences of the paper's sections 4.2 and 4.3 that a results file can judge, each with its number.

``python -m gcref.validation.claims results.h5 [duplicates.h5] [--markdown]``

Claim: what the paper says of random-features models, in our words, beside the number measured here, the rule
fixed in advance, and the verdict. Then the paper's digitised points (learning rate 0.01) beside ours. A
verdict on a sentence fails nothing; the program exits with 1 if fewer than 90 % of the points of SG-B, SG-2B
and GC lie within a factor of 2 (0.3 in log10) or the files have none of them, and with 2 if a file cannot be
judged. Runtime: seconds.
"""

import argparse
from pathlib import Path

import numpy as np

from gcref.store import StoreError, read_summary
from gcref.validation import section_4_2, section_4_3
from gcref.validation.paper_points import compare
from gcref.validation.verdicts import Claim, Table


def judge(path: Path, duplicates_path: Path | None = None) -> list[Claim]:
    """Judge every sentence by a results file, and those on duplicates by a second one.

    Parameters
    ----------
    path, duplicates_path : Path
        Files of ``gcref rf-sweep``; the first without duplicates, or with them too.

    Returns
    -------
    list of Claim

    Raises
    ------
    gcref.store.StoreError
        If a file cannot be read.
    ValueError
        If the first has no trajectory without duplicates, or the second none with them, or one lacks a method.
    """
    summary = read_summary(path)
    is_plain = summary["duplicate_fraction"] == 0
    plain = _table(path, summary[is_plain], "without duplicates")
    copies = Table(summary[~is_plain])
    if duplicates_path is not None:
        summary = read_summary(duplicates_path)
        copies = _table(duplicates_path, summary[summary["duplicate_fraction"] > 0], "with duplicates")
    return [
        *section_4_2.axes_that_matter(plain),
        *section_4_2.overparametrized(plain),
        *section_4_2.staleness(path, plain),
        *section_4_2.learning_rates(plain),
        *section_4_2.normalized(plain),
        *section_4_3.clustering(plain),
        *section_4_3.duplicates(copies),
        *section_4_2.mean_and_max(plain),
        *section_4_2.beyond_the_file(),
    ]


def _table(path: Path, summary: np.ndarray, which: str) -> Table:
    """Make a table that holds all four methods."""
    table = Table(summary)
    missing = {b"sgb", b"sg2b", b"svrg", b"gc"} - set(table.rows["method"].tolist())
    if missing:
        names = ", ".join(sorted(name.decode() for name in missing))
        raise ValueError(f"{path} has no finished trajectory {which} of the methods {names}")
    return table


def as_markdown(claims: list[Claim]) -> str:
    """Return the claims as a Markdown table."""
    lines = ["| Section | The paper says | Measured | Verdict |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {c.section} | {c.says} | {c.measured} | **{c.verdict}** |" for c in claims])


def main() -> int:
    """Print the claims and the comparison with the paper's points; return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("results", type=Path, help="a file of gcref rf-sweep")
    parser.add_argument("duplicates", type=Path, nargs="?", help="a file of gcref rf-sweep --duplicates")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    try:
        claims = judge(options.results, options.duplicates)
        text, passed = compare([path for path in (options.results, options.duplicates) if path is not None])
    except (StoreError, ValueError) as error:
        print(f"Error: {error}")
        return 2
    if options.markdown:
        print(as_markdown(claims))
    else:
        for claim in claims:
            print(f"{claim.verdict.upper():16} {claim.section}: {claim.says}\n{'':16} {claim.measured}")
            if claim.rule:
                print(f"{'':16} rule: {claim.rule}")
    print()
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
