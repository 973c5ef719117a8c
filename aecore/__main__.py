"""`python -m aecore`."""

import sys

from aecore import output
from aecore.cli import main

status = main()
output.end()
sys.exit(status)
