"""`python -m loadtest.bench`."""

import sys

from loadtest.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
