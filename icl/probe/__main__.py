"""`python -m icl.probe URL`."""

import sys

from .run import main

sys.exit(main())
