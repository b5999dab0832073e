"""How every integer op is exported: one file for each op, or for a few that are alike.

The files have the names of those in `keras_qat.integer.ops`, which state the same ops and run them.
`table.OP_EXPORTS` lists them all.
"""
