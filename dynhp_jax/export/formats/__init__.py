"""File formats of a finished network; one file each."""
