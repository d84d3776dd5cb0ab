"""The directory of a run: what is in it, how it is checked, and how a run goes on from it."""
