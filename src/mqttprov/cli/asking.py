"""Asking a person before something that cannot be undone."""

import sys

import typer

from mqttprov.cli.errors import Exit, Failure


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if `--yes` was said or the person agrees. Raises `Failure`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("this cannot be undone and nobody can be asked here; say --yes", Exit.USAGE)
    if not typer.confirm(question, err=True):
        raise Failure("nothing was changed")
