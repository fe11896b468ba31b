"""`python -m soundcert`."""

from soundcert.cli import main

main()
