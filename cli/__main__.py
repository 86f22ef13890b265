"""``python -m gcref.cli``."""

from gcref.cli import main

main()
