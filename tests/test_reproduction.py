"""The parts of the reproduction: what the paper prints, rows, results, tables, figures."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynhp_jax import config as configuration
from dynhp_jax.errors import UserError
from experiments.reproduction import calibration, figures, published, results, rows, tables, targets
from experiments.reproduction.published import TABLES, UNITS
from experiments.reproduction.settings import RHO, SETTINGS

RESULTS = Path(__file__).parents[1] / "results"

# -- what the paper prints -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "computed", "printed"), [(2, "5.219", "5.219"), (3, "2.867", "2.866")]
)
def test_the_rows_of_soft_pruning_are_arithmetic(number, computed, printed):
    table = TABLES[number]
    widths = (*UNITS.values(), published.CLASSES)
    parameters = sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))
    assert parameters == published.WHOLE
    model = 4 * parameters / 1024 / 1000
    batch = 4 * 784 * table.sp_batch / 1024 / 1000
    memory = published.EPOCHS * (model + batch) / 1000
    sp = table.line("sp")
    assert f"{model:.3f}" == f"{sp.model:.3f}" == "1.041"
    assert f"{memory:.3f}" == computed
    assert f"{sp.memory:.3f}" == printed  # Fashion-MNIST's is truncated


def _possible(value, base, decimals):
    """The least and the largest change in percent that the two rounded numbers can stand for."""
    half = 0.5 * 10**-decimals
    least = 100 * ((value - half) / (base + half) - 1)
    most = 100 * ((value + half) / (base - half) - 1)
    return least - 0.5, most + 0.5


@pytest.mark.parametrize("number", TABLES)
def test_printed_differences_follow_from_printed_values_but_for_the_slip(number):
    table = TABLES[number]
    sp, slips = table.line("sp"), []
    for line in table.lines[1:]:
        for name, decimals in (("error", 2), ("model", 3), ("memory", 3)):
            least, most = _possible(getattr(line, name), getattr(sp, name), decimals)
            if not least <= getattr(line, f"{name}_change") <= most:
                slips.append((line.name, name))
    assert slips == ([("hp", "model")] if number == 2 else [])


def test_the_slip_is_of_eight_points():
    hp, sp = TABLES[2].line("hp"), TABLES[2].line("sp")
    assert tables.change(hp.model, sp.model) == "-80%"
    assert hp.model_change == -88


def test_the_implied_mini_batch_bounds_those_that_are_known():
    for table in TABLES.values():  # HP's batch is fixed, so that its true mean is known
        assert table.hp_batch <= table.line("hp").mean_batch <= 1.3 * table.hp_batch
    # 0.971 used 99 % of the budget: more examples than SP's 512, which the smaller network allows.
    assert TABLES[2].line("dynhp-0.971").mean_batch > 512


# -- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["sp", "hp", "dense", "dynhp-0.972", "dense-final@hp", "magnitude@dynhp-0.95",
     "random@hp+per-example", "hp+penalty.l2=0.5+no-pixels", "dynhp-1", "dynhp-0.9999999"],
)  # fmt: skip
def test_a_name_is_read_and_given_back(name):
    assert rows.parse(name).name == name


def test_equal_rows_have_one_name():
    assert rows.parse("dynhp-0.980") == rows.parse("dynhp-0.98")
    assert rows.parse("magnitude") == rows.parse("magnitude@hp")
    row = rows.parse("hp+ce")
    assert row.with_variants(("ce", "l2")).name == "hp+ce+l2"
    assert row.with_variants(("ce", "l2")).without(("l2",)) == row


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hpp", "is no row; rows are sp, hp"),
        ("dynhp", "is no row"),
        ("dynhp-1.2", "is no row"),
        ("dynhp-nan", "is no row"),
        ("hp@sp", "is no row"),
        ("random@sp", "a row that prunes"),
        ("random@random@hp", "a row that prunes|is no row"),
        ("hp+fast", "no variant; allowed: per-example"),
        ("hp+penalty.lm=1", "did you mean: penalty.lam"),
        ("hp+seed=1", "--seeds"),
        ("hp+data.dir=x", "changes no result"),
    ],
)
def test_what_is_no_row_says_so(name, says):
    with pytest.raises(UserError, match=says):
        rows.parse(name)


@pytest.mark.parametrize("number", TABLES)
def test_the_configs_are_the_paper_s_protocol(number):
    table, settings = TABLES[number], SETTINGS[number]

    def config(name):
        return rows.config_of(rows.parse(name), table, settings, seed=3, epochs=7)

    sp, hp, dynhp, dense = (config(name) for name in ("sp", "hp", "dynhp-0.98", "dense"))
    assert [each.batching.size for each in (sp, hp, dynhp, dense)] == [
        table.sp_batch, table.hp_batch, 16, table.hp_batch,
    ]  # fmt: skip
    assert [each.batching.rule for each in (sp, hp, dynhp)] == ["fixed", "fixed", "dynhp"]
    assert dynhp.batch.alpha == 0.98 and dynhp.memory.budget == "sp"
    for each in (sp, hp, dynhp, dense):
        assert (each.seed, each.epochs, each.data.name) == (3, 7, table.dataset)
        assert each.model.hidden == (300, 100) and each.memory.sp_batch == table.sp_batch
        assert each.penalty.lam == settings.lam and each.pruning.gamma == 0.5
    names = rows.default_rows(table, settings.alphas)
    assert [name for name in names if table.line(name)] == [line.name for line in table.lines]
    assert all(rows.parse(name).name == name for name in names)


@pytest.mark.parametrize("number", TABLES)
def test_variants_change_one_thing_and_sizes_are_the_reference_s(number):
    def config(name):
        return rows.config_of(rows.parse(name), TABLES[number], SETTINGS[number], 0, 5)

    before, unchanged = configuration.flatten(config("hp")), set()
    for variant, fields in rows.VARIANTS.items():
        after = configuration.flatten(config(f"hp+{variant}"))
        assert after == before | fields
        if after == before:
            unchanged.add(variant)
    settings = SETTINGS[number]  # of two choices the other one is the variant
    assert unchanged == {settings.optimizer} | ({"l2"} if settings.l2 == RHO else set())
    large = config("sp+batch.size=4096")
    assert (large.batching.size, large.memory.budget) == (4096, "none")  # beyond SP's own budget
    row = rows.parse("dense-final@hp+model.hidden=(30, 20)")
    units = {"input": 5, "hidden_1": 4, "hidden_2": 3}
    assert rows.config_of(row, TABLES[2], SETTINGS[2], 0, 5, units).model.hidden == (4, 3)


# -- results and tables ----------------------------------------------------------------------------


def recorded(directory, name, seed, errors, parameters, batches, table=2):
    """Writes a result as a run of so many epochs would."""
    row = rows.parse(name)
    config = rows.config_of(row, TABLES[table], SETTINGS[table], seed, len(errors))
    records = [
        {
            "epoch": epoch,
            "test_error": error,
            "parameters": parameters,
            "batch_size": batch,
            "memory_kib": math.nan,
            "variance_ratio": 10.0 * epoch,
            "cross_entropy": 0.1,
            "units": {"input": 784, "hidden_1": 200, "hidden_2": 90},
            "active": {"input": 700.0, "hidden_1": 150.0, "hidden_2": 80.0},
            "seconds": 2.0,
            "compile_seconds": 0.5,
        }
        for epoch, (error, batch) in enumerate(zip(errors, batches, strict=True), start=1)
    ]
    result = results.of_records(
        records, row=name, table=table, config=config, units=records[-1]["units"], kept_inputs=None,
        commit="abc", versions={"jax": "1"}, machine="m",
    )  # fmt: skip
    results.write(result, directory)
    return result


@pytest.fixture
def small(tmp_path):
    """SP with two seeds, HP with one, of two epochs; and a variant."""
    recorded(tmp_path, "sp", 0, [5.0, 1.5], 266_610, [512, 512])
    recorded(tmp_path, "sp", 1, [5.0, 1.3], 266_610, [512, 512])
    recorded(tmp_path, "hp", 0, [1.2, 1.4], 53_322, [100, 100])
    recorded(tmp_path, "dynhp-0.95", 0, [3.0, 1.54], 133_305, [16, 32])
    recorded(tmp_path, "hp+ce", 0, [3.0, 2.8], 53_322, [100, 100])
    return tmp_path


def row_of(grid, name):
    (cells,) = (row for row in grid.cells if row[0] == name)
    return dict(zip(grid.cells[0], cells, strict=True))


def test_the_table_has_the_paper_beside_ours(small):
    (main, varied), stale = tables.build(small, TABLES[2], SETTINGS[2])
    assert stale == []
    sp, hp, dynhp = (row_of(main, name) for name in ("sp", "hp", "dynhp-0.95"))
    assert sp["paper: error %"] == "1.42" and sp["error %"] == "1.40 ± 0.14"
    assert sp["memory"] == "5.219 ± 0.000"  # two epochs, times 1,000
    assert hp["paper: error %"] == "1.41 (-1%)" and hp["error %"] == "1.40 (0%)"
    assert hp["best %"] == "1.20" and hp["seeds"] == "1" and hp["units"] == "784-200-90"
    assert hp["paper: model"] == "0.206 (-88%)" and hp["model"] == "0.208 (-80%)"
    assert hp["memory"] == f"{2 * (0.2082890625 + 0.30625):.3f} (-80%)"
    # 133,305 parameters and 32 examples for all epochs but the first, and it would go on growing.
    first, later = 0.52072265625 + 0.049, 0.52072265625 + 0.098
    assert dynhp["memory"] == f"≥ {(first + 1999 * later) / 1000:.3f} (-76%)"
    # Cut after half of the epochs, however many these are.
    half = {"row": "random@hp", "epochs": 2, "training_memory": 0.001}
    assert results.memory_over(half, 2000) == pytest.approx(1.0)
    assert dynhp["paper: model"] == "-" and dynhp["error %"] == "1.54 (+10%)"
    assert dynhp["batch"] == "32"
    assert row_of(main, "dynhp-0.971")["error %"] == "-"
    assert row_of(varied, "hp+ce")["error %"] == "2.80 (+100%)"
    assert [row[0] for row in varied.cells[1:]] == ["hp", "hp+ce"]
    assert "after the 2 epochs that were run" in main.text() and "-80 %" in main.text()
    assert main.markdown().count("\n| ") == len(main.cells) + 1


@pytest.mark.parametrize(
    ("ratio", "batch", "parameters", "more"),
    [
        (30.0, 128, 40_000, True),
        (19.0, 128, 40_000, False),  # (1 - 0.95) x 19 adds nothing
        (20.4, 128, 40_000, True),  # one a epoch: 100 more are enough for 152
        (20.4, 608, 40_000, False),  # but not for 728
        (90.0, 728, 40_000, False),  # the budget has room for 801, the grid's next is 864
        (90.0, 608, 40_000, True),
        (90.0, 608, 200_000, False),  # a network that leaves room for 597
    ],
)
def test_memory_is_a_lower_bound_where_the_mini_batch_would_go_on_growing(
    ratio, batch, parameters, more, tmp_path
):
    row = rows.parse("dynhp-0.95")
    config = rows.config_of(row, TABLES[2], SETTINGS[2], 0, 8)
    records = [1e6] * 6 + [ratio] * 2  # of eight epochs the last two count
    result = {
        "epochs": 8,
        "batch_size": batch,
        "model_kib": parameters / 256,
        "config": configuration.to_dict(config),
        "curves": {"epoch": list(range(1, 9)), "variance_ratio": records},
    }
    assert results.grows_on(result, 8 + 100) == more
    assert not results.grows_on(result, 8)


def test_the_table_says_which_targets_are_reached_and_by_how_much_others_are_missed(small):
    def said():
        (main, *_), _ = tables.build(small, TABLES[2], SETTINGS[2])
        return [note for note in main.notes if note.startswith("to match")]

    hp, dynhp = said()
    assert hp.endswith("missed by 1% of the size, nearest is hp, 1.40 % with 0.208, memory 1.029")
    assert "missed by 193% of the size, nearest is dynhp-0.95, 1.54 % with 0.521, memory" in dynhp
    recorded(small, "hp+penalty.lam=0.08", 0, [1.5, 1.56], 52_700, [100, 100])  # 205.9 KiB
    recorded(small, "hp+penalty.lam=0.08+ce", 0, [1.0, 1.0], 26_661, [100, 100])  # another method
    recorded(small, "dynhp-0.95", 1, [3.0, 1.90], 45_056, [16, 32])  # 176 KiB: still above in mean
    recorded(small, "dynhp-0.97", 0, [3.0, 1.70], 45_056, [16, 32])
    hp, dynhp = said()
    assert hp.endswith("reached by hp+penalty.lam=0.08, 1.56 % with 0.206, memory 1.024")
    assert "missed by 0.12 points, nearest is dynhp-0.97, 1.70 % with 0.176, memory" in dynhp
    recorded(small, "hp+penalty.lam=0.09", 0, [1.5, 1.52], 50_000, [100, 100])
    assert "lam=0.08, 1.56 % with 0.206, memory 1.024; hp+penalty.lam=0.09, 1.52" in said()[0]
    for path in small.glob("table2/dynhp-*"):
        path.unlink()
    assert said()[1].endswith("0.178: no results yet")


@pytest.mark.parametrize(("number", "name"), [(2, "mnist_best"), (3, "fmnist_best")])
def test_what_is_said_of_our_own_configs_is_what_their_runs_gave(number, name):
    runs = [json.loads(p.read_text()) for p in RESULTS.glob(f"runs/{name}*/summary.json")]
    error = statistics.fmean(each["test_error"] for each in runs)
    model = statistics.fmean(each["model_kib"] for each in runs) / 1000
    (epochs,) = {each["epochs"] for each in runs}
    said = f"{error:.2f} % with {model:.3f} after {epochs} epochs ({len(runs)} seeds, results/runs)"
    assert said in targets.BEYOND[number]


def test_results_of_other_settings_are_left_out_and_named(small):
    settings = dataclasses.replace(SETTINGS[2], lam=0.2)
    grids, stale = tables.build(small, TABLES[2], settings)
    assert grids == [] and "sp (seed 1, 2 epochs)" in stale and len(stale) == 5
    recorded(small, "sp+penalty.lam=0.2", 0, [1.0], 266_610, [512])
    assert tables.build(small, TABLES[2], settings, ("penalty.lam=0.2",))[1] == stale
    with pytest.raises(UserError, match="no result"):
        calibration.proposals(small, TABLES[2], settings, [rows.parse("dynhp-0.95")], None)


def test_errors_on_held_out_examples_replace_those_on_the_test_set(small):
    path = small / "table2"
    name = "sp+data.validation=0.1"
    result = recorded(small, name, 0, [5.0, 1.5], 266_610, [512, 512])
    result["validation_error"] = 2.25
    results.write(result, small)
    assert (path / f"{name}-seed0-epochs2.json").exists()
    (grid, *_), _ = tables.build(small, TABLES[2], SETTINGS[2], ("data.validation=0.1",))
    assert row_of(grid, "sp")["validation error %"] == "2.25"
    assert "1.5" not in " ".join(row_of(grid, "sp").values())
    assert "best %" not in grid.cells[0]

    # Beside results that have none, they are in a table of their own.
    (_, varied, held_out), _ = tables.build(small, TABLES[2], SETTINGS[2])
    assert row_of(varied, "hp+ce")["error %"] == "2.80 (+100%)"
    assert [row[0] for row in held_out.cells[1:]] == [name]
    assert row_of(held_out, name)["validation error %"] == "2.25"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("[]", "it is no JSON object"),
        ('{"row": "hp"', "it is no JSON object"),
        ({"row": "hq"}, "its row is not the name of a row"),
        ({"row": None}, "its row is not"),
        ({"table": 4}, "its table is not 2 or 3"),
        ({"seed": True}, "its seed is not a whole number"),
        ({"epochs": 0}, "its epochs is not a whole number, 1 or more"),
        ({"test_error": "1.4"}, "its test_error is not a finite number"),
        ({"best_test_error": math.nan}, "its best_test_error is not a finite number"),
        ({"validation_error": math.inf}, "its validation_error is not a finite number or null"),
        ({"units": ...}, "it has no units"),
        ({"units": {"input": "784"}}, "its units is not"),
        ({"model_kib": ...}, "it has no model_kib"),
        ({"training_memory": None}, "its training_memory"),
        ({"config": "hp"}, "its config is not an object"),
        ({"kept_inputs": 3}, "its kept_inputs"),
        ({"curves": {"epoch": [1]}}, "its curves"),
        ({"curves": {"epoch": [1], "more": [1, 2]}}, "its curves"),
        ({"curves": {"test_error": [None, None]}}, "its curves"),
        ({"seed": 3}, "holds the result whose file is .*hp-seed3-epochs2.json"),
        ({"table": 3}, "holds the result whose file is .*table3/hp-seed0-epochs2.json"),
    ],
)
def test_a_file_that_is_no_result_or_that_of_another_run_is_named(small, damage, says):
    path = small / "table2" / "hp-seed0-epochs2.json"
    there = json.loads(path.read_text())
    if isinstance(damage, dict):
        for name, value in damage.items():
            damage = {**there, name: {**there[name], **value} if name == "curves" else value}
        damage = json.dumps({name: value for name, value in damage.items() if value is not ...})
    path.write_text(damage)
    with pytest.raises(UserError, match=f"hp-seed0-epochs2.json .*{says}"):
        tables.build(small, TABLES[2], SETTINGS[2])


def test_a_copy_is_not_counted_twice_and_a_half_written_file_not_at_all(small):
    path = small / "table2" / "hp-seed0-epochs2.json"
    path.with_name(f".unfinished-{path.name}").write_text("{")
    assert len(results.read_all(small, 2)) == 5
    path.with_name(f"machineB-{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=f"machineB-{path.name} holds the result whose file is "):
        results.read_all(small, 2)


@pytest.mark.parametrize("number", TABLES)
def test_the_results_that_lie_here_are_results(number):
    found = results.read_all(RESULTS / "reproduction", number)
    assert {rows.parse(each["row"]).kind for each in found} >= {"sp", "hp", "dynhp"}


def test_curves_keep_every_epoch_first_and_every_tenth_later():
    records = [
        {"epoch": e, "test_error": 1 / 3, "batch_size": e, "units": {}, "active": {"input": e / 3}}
        for e in range(1, 126)
    ]
    found = results.curves(records)
    assert found["epoch"] == [*range(1, 101), 110, 120, 125]
    assert found["test_error"][0] == 0.33 and found["batch_size"] == found["epoch"]
    assert found["active/input"][-1] == 41.7


def test_calibrated_alphas_take_the_batch_to_the_paper_s(small):
    ratios = [10.0 * epoch for epoch in range(1, 201)]
    recorded(small, "dynhp-1", 0, [2.0] * 200, 266_610, [16] * 200)
    (found,) = (r for r in results.read_all(small, 2) if r["row"] == "dynhp-1")
    assert len(calibration.ratios_of(found)) == 200
    text = calibration.proposals(small, TABLES[2], SETTINGS[2], [rows.parse("dynhp-1")], None)
    for line in TABLES[2].lines[2:]:
        (proposed,) = (
            float(each.split()[-1]) for each in text.splitlines() if f" {line.alpha:g} " in each
        )
        # Between epochs 100 and 200 the curves have every tenth; the batch is a little higher.
        batch = 16 + sum(math.floor((1 - proposed) * ratio) for ratio in ratios)
        assert 0.85 * line.mean_batch <= batch <= 1.15 * line.mean_batch


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
        (by_row,) = figures._chosen({2: figures._named(small, TABLES[2], ())})[what].values()
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
    assert len(figures.draw(small, None, ("no-pixels",))) == 5  # no row has an alpha
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
