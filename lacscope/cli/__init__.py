"""The command line."""

from lacscope.cli._app import main as main
