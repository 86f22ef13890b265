"""The traces of a data set, gone through as often as needed: one pass, a list of batches, or a function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from gcref.engine.trace import Trace, check_traces, is_losses_and_traces

Batches = Iterable[Sequence[Trace]]


class Passes:
    """Traces that can be gone through again, batch by batch.

    Parameters
    ----------
    traces : list of Trace, list of such lists, or callable
        The traces of one pass; or batches, in order; or a function without arguments that yields the batches
        anew at each call, the same ones each time.

    Raises
    ------
    TypeError
        If `traces` is nothing of the kind, such as a generator, which can be gone through only once.
    ValueError
        If it is empty. Batches that differ in their blocks, and passes in their length, raise one when met.
    """

    def __init__(self, traces: Any) -> None:
        self._open: Callable[[], Batches] = _reopenable(traces)
        self._blocks: list[tuple[int, int, int]] | None = None
        self.n_examples: int | None = None

    def __iter__(self) -> Iterator[tuple[slice, Sequence[Trace]]]:
        """Yield the rows of each batch among all examples, and its traces."""
        start = 0
        for number, batch in enumerate(self._open()):
            self._check(batch, f"batch {number} of traces")
            stop = start + batch[0].n_examples
            if self.n_examples is not None and stop > self.n_examples:
                self._refuse_length(f"{stop} examples or more")
            yield slice(start, stop), batch
            start = stop
        if self.n_examples is None:
            self.n_examples = start
        elif start != self.n_examples:
            self._refuse_length(f"{start} examples")

    def _refuse_length(self, found: str) -> None:
        """Raise because a pass is not as long as the first."""
        raise ValueError(
            f"traces yielded {found} in this pass but {self.n_examples} in the first; "
            "every call must yield the same batches"
        )

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """(T, I, O) of each parameter block; known once a pass has begun."""
        return self._blocks or []

    def _check(self, batch: Sequence[Trace], name: str) -> None:
        """Raise unless `batch` holds one Trace a block, of the shapes of the batches before it."""
        if not isinstance(batch, (list, tuple)):
            raise TypeError(f"{name} is a {type(batch).__name__}; a list with one Trace a block is expected")
        check_traces(batch, name)
        blocks = [t.shape for t in batch]
        if self._blocks is None:
            self._blocks = blocks
        if blocks != self._blocks:
            raise ValueError(f"{name} has blocks (T, I, O) {blocks} but those before it have {self._blocks}")


def is_traces(X: Any) -> bool:
    """Tell traces, of whatever arrangement, from an array of gradients."""
    while isinstance(X, (list, tuple)) and len(X) > 0:
        X = X[0]
    return isinstance(X, Trace) or callable(X)


def _reopenable(traces: Any) -> Callable[[], Batches]:
    """Return a function that yields the batches of `traces` anew."""
    if callable(traces):
        return traces
    if not isinstance(traces, (list, tuple, Trace)):
        raise TypeError(
            f"traces is a {type(traces).__name__}; expected a list of Trace, a list of such lists, or a "
            "function without arguments that yields the batches anew at each call"
        )
    if isinstance(traces, Trace) or len(traces) == 0 or isinstance(traces[0], Trace) or is_losses_and_traces(traces):
        check_traces(cast(list[Trace], traces))
        return lambda: [cast(list[Trace], traces)]
    return lambda: traces
