"""Which units go: scores, targets, schedules."""
