"""`python -m medlens`: the same as the command `medlens`."""

import sys

from medlens.cli import main

sys.exit(main())
