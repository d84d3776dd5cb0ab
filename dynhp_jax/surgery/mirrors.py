"""Which arrays of a state mirror which parameter, found by how its shapes follow theirs.

Every axis of a parameter that will be cut gets a code word, and the state's shapes are asked for
once with all axes whole and once per place of the words: at place j those axes are cut whose word
has a one there, the others are whole. An array mirrors a parameter if it has its shape every time.
All words have equally many ones, so that none is contained in another: no array that follows
another axis, the axes in another order or several of them together (a transposed copy, a Kronecker
factor, a concatenation) looks like a mirror. Only sizes that the cut itself brings about occur, so
that what depends on a size being small or large does not change because of the asking.
"""

import itertools
import math
from collections.abc import Callable, Sequence

Shape = tuple[int, ...]

UNLIKE = -1  # an array that follows the parameters' shapes and has none of them
GROWTH = 2**14  # larger than the blocks that states are padded to


def find(
    shapes_of: Callable[[Sequence[Shape]], Sequence[Shape]],
    whole: Sequence[Shape],
    small: Sequence[Shape],
) -> list[int | None]:
    """The parameter that every array of a state mirrors.

    Args:
      shapes_of: shapes of the state's arrays, in an order that is always the same, for parameters
        of the shapes given.
      whole: of every parameter before the cut.
      small: of every parameter after it, as many axes each.

    Returns:
      For every array of the state the index of its parameter; None if its shape follows that of no
      parameter; `UNLIKE` if it follows them, but not as a mirror.

    Example:
      >>> state = lambda shapes: [shapes[0], shapes[0][::-1], ()]  # copy, transposed copy, count
      >>> find(state, [(4, 4)], [(2, 2)])
      [0, -1, None]
    """
    axes = [
        (i, axis)
        for i, (before, after) in enumerate(zip(whole, small, strict=True))
        for axis, (size, less) in enumerate(zip(before, after, strict=True))
        if size != less
    ]
    words = dict(zip(axes, code_words(len(axes)), strict=True))
    parameters = [list(whole)]
    for ones in zip(*words.values(), strict=True):
        cut = {axis for axis, one in zip(words, ones, strict=True) if one}
        parameters.append(
            [
                tuple(small[i][a] if (i, a) in cut else size for a, size in enumerate(shape))
                for i, shape in enumerate(whole)
            ]
        )
    owners = {shapes: i for i, shapes in enumerate(zip(*parameters, strict=True))}
    arrays = zip(*(shapes_of(shapes) for shapes in parameters), strict=True)
    return [None if len(set(shapes)) == 1 else owners.get(shapes, UNLIKE) for shapes in arrays]


def code_words(count: int) -> list[tuple[bool, ...]]:
    """So many words of the same length, each with ones at half of the places, as short as can be.

    Example:
      >>> code_words(2)
      [(True, False), (False, True)]
    """
    length = next(n for n in itertools.count(2) if math.comb(n, n // 2) >= count)
    ones = itertools.islice(itertools.combinations(range(length), length // 2), count)
    return [tuple(place in those for place in range(length)) for those in ones]


def grown(whole: Sequence[Shape], small: Sequence[Shape]) -> list[Shape]:
    """The parameters with every axis that will be cut made far larger instead."""
    return [
        tuple(size + GROWTH * (size != less) for size, less in zip(before, after, strict=True))
        for before, after in zip(whole, small, strict=True)
    ]
