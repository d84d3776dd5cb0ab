"""The planner of bytes: what to train, so that the compiled step stays inside a budget.

`setting` says how a step saves bytes, `step` composes one and meters it, `estimate` says beforehand
what it may take, `search` finds the best with few compilations, and `plan` is the interface.
"""
