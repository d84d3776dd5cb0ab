"""One file per experiment: its docstring says the command, how long it takes, what to expect."""
