"""``python -m gcref.cli``.

If a KeyboardInterrupt ever left an ``exec`` (an import of dataclasses is full of them), though it was caught, Python
ends a module run with ``-m`` by SIGINT, whatever its exit code. The code is therefore given to the system here, when
all else is done.
"""

import atexit
import os
import sys
from contextlib import suppress

from gcref.cli import main

_codes: list[int] = []


@atexit.register  # the first to be registered is the last to be called
def _leave() -> None:
    if _codes:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(_codes[0])


try:
    main()
except SystemExit as end:
    if isinstance(end.code, int):
        _codes.append(end.code)
    raise
