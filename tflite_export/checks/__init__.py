"""Where each operator of a file runs on a target, and how well."""
