"""How many bytes a step takes, by the paper's arithmetic or as it is compiled."""
