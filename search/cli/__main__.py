"""`python -m search.cli`, where no `prunefront` is on the path."""

from search.cli import main

main()
