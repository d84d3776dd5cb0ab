"""What a program takes where several processes run it: as much as in the one where it takes most.

Their machines may differ in cores or versions, and a budget decides the shapes of all of them.
"""

import functools
import hashlib
import weakref

import jax

from dynhp_jax.common import processes


def name(compiled: jax.stages.Compiled, lowered: jax.stages.Lowered) -> None:
    """Notes which program a compiled one is; its own text may differ between machines."""
    if processes.several():
        _names()[compiled] = hashlib.sha256(lowered.as_text().encode()).hexdigest()


def largest(compiled: jax.stages.Compiled, size: int) -> int:
    """The most that any process says of a program; of one without a name, what this one says."""
    found = _names().get(compiled)
    if found is None:
        return size
    return max(processes.exchanged(f"bytes/{found}", size))


@functools.cache
def _names() -> weakref.WeakKeyDictionary:
    return weakref.WeakKeyDictionary()
