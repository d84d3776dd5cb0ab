"""Trials of what must never happen: a traceback, a result that is silently wrong, a lost bit.

    python -m benchmarks.reliability.directories   damaged run directories
    python -m benchmarks.reliability.inputs        bad input to all six programs
    python -m benchmarks.reliability.kills         runs that are killed and go on

Each writes its counts, and every case that failed, to results/reliability/.
"""
