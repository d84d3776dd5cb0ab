"""How long tests wait for a process before they take it to hang."""

# About ten times what the slowest takes on two cores that others keep busy.
PATIENCE = 1200.0  # seconds
