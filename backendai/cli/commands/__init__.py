"""One module for each command; loaded when the command is called, so that ``--help`` stays quick."""
