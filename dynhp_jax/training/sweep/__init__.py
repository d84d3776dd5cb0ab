"""Several runs side by side as one program."""
