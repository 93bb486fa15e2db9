"""Tests a checkpoint: `python test.py --weights exp/<run>` fuses a test set and prints its table."""

import sys

from jfusion.__main__ import start

sys.exit(start(["test", *sys.argv[1:]]))
