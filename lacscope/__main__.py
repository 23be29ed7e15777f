"""``lacscope``, ``python -m lacscope`` and ``accelerate launch -m lacscope``: the command line."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it in a line too."""
    try:
        from lacscope.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted. Nothing was written.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
