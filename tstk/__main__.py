"""`python -m tstk` is the command line."""

from tstk.cli import main

main()
