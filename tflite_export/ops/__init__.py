"""How every integer op is exported: one module for each op, or for a few similar ops.

The modules are named like the modules in `keras_qat.integer.ops`, which state the same ops and run
them. `table.OP_EXPORTS` lists all ops.
"""
