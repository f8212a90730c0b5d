"""Run the command line with `python -m tstk`."""

from tstk.cli import main

main()
