"""Where a process begins: `jfusion`, `python -m jfusion`, and the scripts at the top of the repository."""

import sys
from collections.abc import Sequence


def start(arguments: Sequence[str] | None = None) -> int:
    """`jfusion.cli.main`, and its exit code; Ctrl-C is silent while the modules are still imported, too."""
    try:
        from jfusion.cli import main
    except KeyboardInterrupt:
        return 130
    return main(arguments)


if __name__ == "__main__":
    sys.exit(start())
