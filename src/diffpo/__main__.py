"""The command `diffpo`, which is `python -m diffpo`."""

import os
import signal
import sys


def main() -> None:
    """The command line. Ctrl-C while its modules are imported is one line as well."""
    catches = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not told to ignore it
    if catches:
        signal.signal(signal.SIGINT, _leave)
    from diffpo.cli import main

    if catches:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


def _leave(*_: object) -> None:
    print("diffpo: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
