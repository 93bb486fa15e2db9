"""Tests a checkpoint: `python test.py --weights exp/<run>` fuses a test set and prints its table."""

import sys

from jfusion.cli import main

sys.exit(main(["test", *sys.argv[1:]]))
