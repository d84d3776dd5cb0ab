"""Figures 1 to 7, of results that are there."""

import numpy as np
import pytest
from PIL import Image
from recorded import few, recorded

from dynhp_jax.common.errors import UserError
from experiments.reproduction import figures, results
from experiments.reproduction.published import TABLES
from experiments.reproduction.settings import SETTINGS


@pytest.fixture
def small(tmp_path):
    return few(tmp_path)


def test_figures_are_drawn_of_what_is_there(small):
    recorded(small, "sp+batch.size=16", 0, [4.0, 2.0], 266_610, [16, 16])
    written = figures.draw(small)
    assert [path.name for path in written] == [f"figure_{i}.png" for i in (1, 2, 3, 5, 6, 7)]
    for path in written:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[0] > 200 and pixels.std() > 5, path.name
    with pytest.raises(UserError, match="no result of 3 epochs"):
        figures.draw(small, 3)


def test_a_figure_is_of_the_longest_runs_of_which_the_most_lines_are_there(small):
    def drawn(what):
        named = figures._named(small, TABLES[2], SETTINGS[2], ())
        (by_row,) = figures._chosen({2: named})[what].values()
        return {(row.name, each["epochs"], each["seed"]) for row in by_row for each in by_row[row]}

    def longer(name, seed=0, batch=16):
        recorded(small, name, seed, [4.0, 2.0, 1.0], 53_322, [batch] * 3)

    sp, hp = {("sp", 2, 0), ("sp", 2, 1)}, {("hp", 2, 0)}
    for name in ("hp", "dynhp-0.95", "sp+batch.size=16"):
        longer(name)
    assert drawn("pair") == sp | hp  # SP itself has no longer run
    assert drawn("alphas") == {("dynhp-0.95", 3, 0)}
    assert drawn("plain") == sp | hp | {("dynhp-0.95", 2, 0)}
    assert drawn("batches") == {("hp", 3, 0), ("sp+batch.size=16", 3, 0)}
    longer("sp", batch=512)
    assert drawn("pair") == {("sp", 3, 0), ("hp", 3, 0)}  # either length has a row of one seed
    recorded(small, "hp", 1, [1.2, 1.4], 53_322, [100, 100])
    assert drawn("pair") == sp | hp | {("hp", 2, 1)}
    longer("sp", 1, 512)
    longer("hp", 1)
    assert {epochs for _, epochs, _ in drawn("pair")} == {3}
    recorded(small, "dynhp-0.9", 0, [4.0, 2.0], 53_322, [16] * 2)
    assert drawn("alphas") == {("dynhp-0.95", 2, 0), ("dynhp-0.9", 2, 0)}
    assert {epochs for _, epochs, _ in drawn("plain")} == {2}
    assert {epochs for _, epochs, _ in drawn("batches")} == {3}


def test_inputs_without_gates_are_drawn_whole(small):
    for name in ("sp", "hp"):
        found = recorded(small, f"{name}+no-pixels", 0, [4.0, 2.0], 266_610, [16, 16])
        for curve in ("units/input", "active/input"):
            found["curves"].pop(curve, None)
        found["units"]["input"] = 784
        results.write(found, small)
    written = figures.draw(small, None, ("no-pixels",))
    assert len(written) == 5  # no row has an alpha
    assert {path.parent for path in written} == {small / "figures" / "no-pixels"}
    _, mean, _ = figures._width([found], "active", "input")
    assert mean.tolist() == [784, 784]


def test_errors_of_the_first_epochs_leave_the_range_in_which_alphas_are_told_apart(small):
    errors = [90.0, 50.0, *np.linspace(11.0, 10.0, 38)]
    found = recorded(small, "dynhp-0.95", 0, errors, 266_610, [16] * 40)
    low, high = figures._close_limits([[found]])
    assert 9.9 < low < 10.0 and 11.0 - 0.05 < high < 11.1


def test_the_virtual_size_of_soft_pruning_is_that_of_its_active_units(small):
    found = [r for r in results.read_all(small, 2) if r["row"] == "sp"]
    _, mean, _ = figures._virtual(found)
    widths = (700, 150, 80, 10)
    expected = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False)) * 4 / 1024
    np.testing.assert_allclose(mean, expected)
