"""What the command line is made of: one module a command, and the files and kernels they share.

Private: import the public functions of `depthwise` instead. Command modules import only typer at the top,
and everything heavier inside the command, so that ``depthwise --help`` answers at once.
"""
