"""Programs that a run executes, compiled ahead of time and metered."""
