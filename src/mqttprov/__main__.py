"""`python -m mqttprov`: the command line. Nothing else belongs here."""

from mqttprov.cli.main import main

main()
