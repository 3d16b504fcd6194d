"""`python -m icl.probe URL`."""

import sys

from .command import main

sys.exit(main())
