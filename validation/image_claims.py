"""What sections 4.1 and 4.3 say of images, judged by whichever files of image runs there are.

A run as the paper's Fig. 3 has them judges the sentences on its data set; one with label smoothing, corrupt labels or
copies is held against the run that is the same but for that (Figs. 6 and 7).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gcref.store import StoreError, read_config
from gcref.studies.image_run import SHARES
from gcref.validation.section_4_1 import Course, cifar10, duplicates, imagenet, label_noise, mnist, read_course
from gcref.validation.verdicts import Claim

_OF_DATA: dict[str, Callable[[Course], list[Claim]]] = {
    "mnist": mnist, "fashion-mnist": mnist, "cifar10": cifar10, "imagefolder": imagenet,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Judge:
    """A run that can judge, what it is called, and what it was made with."""

    label: str
    config: Mapping[str, Any]
    course: Course

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done to the training set or its labels."""
        return tuple(name for name in SHARES if self.config[name])

    def like(self, other: "_Judge") -> bool:
        """Tell whether two runs are the same but for that, and for what is kept of them."""
        apart = {*SHARES, "methods", "snapshots"}
        one, another = ({name: run.config[name] for name in run.config.keys() - apart} for run in (self, other))
        return one == another

    def signed(self, claims: list[Claim]) -> list[Claim]:
        """Say in each claim which run has judged, on which images and with which model."""
        who = f"{self.label} ({self.config['dataset']}, {self.config['model']}): "
        return [replace(claim, measured=who + claim.measured) for claim in claims]


def judge(files: Mapping[Path, str]) -> tuple[list[Claim], list[str]]:
    """Judge every sentence that some files of ``gcref image`` can.

    Parameters
    ----------
    files : mapping of Path to str
        The files, and what each is called in the claims.

    Returns
    -------
    claims : list of Claim
        Whose `measured` begins with the run that has judged.
    unjudged : list of str
        Why a file judges nothing, though the paper speaks of its images.

    Raises
    ------
    gcref.store.StoreError
        If a file cannot be read or is of another study.
    """
    runs, unjudged = [], []
    for path, label in files.items():
        config = read_config(path)
        try:
            runs.append(_Judge(label, config, read_course(path)))
        except StoreError:
            raise
        except ValueError as error:
            if config["dataset"] in _OF_DATA:
                unjudged.append(str(error).replace(str(path), label))
    claims = []
    for run in runs:
        if not run.changes:
            of_data = _OF_DATA.get(run.config["dataset"])
            claims += run.signed(of_data(run.course)) if of_data else []
            claims += _beside(run, [other for other in runs if run.like(other)])
    return claims, unjudged


def _beside(plain: _Judge, others: list[_Judge]) -> list[Claim]:
    """Judge what is said of one change of the training set, by runs that are like the plain one but for it."""
    by_change = {run.changes[0]: run for run in others if len(run.changes) == 1}
    smooth, corrupt, copies = (
        by_change.get(name) for name in ("label_smoothing", "corrupt_fraction", "duplicate_fraction")
    )
    claims = []
    if smooth is not None and corrupt is not None:
        claims += plain.signed(label_noise(plain.course, smooth.course, corrupt.course))
    if copies is not None:
        claims += plain.signed(duplicates(plain.course, copies.course, plain.config["dataset"]))
    return claims
