"""``lacscope``, ``python -m lacscope`` and ``accelerate launch -m lacscope``: the command line."""

import os
import sys

_INTERRUPTED = (130, 143)


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it in a line too."""
    try:
        from lacscope.cli._app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted. Nothing was written.\n")
        sys.exit(130)
    try:
        run()
    except SystemExit as stop:
        if stop.code not in _INTERRUPTED:
            raise
        # All is said and every file is whole; taking a loaded model apart would keep the user waiting for seconds.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(stop.code))


if __name__ == "__main__":
    main()
