"""The table of layers: what each layer type becomes, or why it is not supported."""
