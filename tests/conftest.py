"""What all tests need."""

import signal

# A shell that starts the tests in its background has them ignore Ctrl-C, and their child processes, which are sent one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
