"""One file per experiment: its docstring says the command, what it is sized for, what was seen."""
