# SPDX-License-Identifier: Apache-2.0
"""The command `mountcr`, and `python -m mountcr`."""

import signal
import sys


def run() -> int:
    """
    Run the command and give its exit status.

    While the modules are loaded there is nothing to undo: an interrupt ends it, without a word.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mountcr.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
