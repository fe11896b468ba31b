"""A local page over all runs under a folder: list, progress, comparisons, the contract builder, audits.

It reads, and never writes below the folder. `shelf` finds runs, `builder` says what a pipeline would certify,
`pages` makes HTML, `server` and `guard` serve it, `site` writes it as static files.
"""
