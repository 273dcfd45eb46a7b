"""`python -m loadtest.history_checker RECORD...`, the same as `parley loadtest check`."""

import sys

from loadtest.history_checker.command import main

sys.exit(main())
