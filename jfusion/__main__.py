"""`python -m jfusion` is the `jfusion` command."""

import sys

from jfusion.cli import main

sys.exit(main())
