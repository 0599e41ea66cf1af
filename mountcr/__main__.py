# SPDX-License-Identifier: Apache-2.0
"""`python -m mountcr`."""

import sys

from mountcr.cli import main

if __name__ == "__main__":
    sys.exit(main())
