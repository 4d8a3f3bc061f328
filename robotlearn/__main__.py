"""`python -m robotlearn` is the command `robotlearn`."""

from robotlearn.cli import main

main()
