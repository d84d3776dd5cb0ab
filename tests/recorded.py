"""Results of the reproduction as runs would leave them, without the runs."""

import math

from experiments.reproduction import results, rows
from experiments.reproduction.published import TABLES
from experiments.reproduction.settings import SETTINGS


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


def few(directory):
    """SP with two seeds, HP with one, of two epochs; and a variant."""
    recorded(directory, "sp", 0, [5.0, 1.5], 266_610, [512, 512])
    recorded(directory, "sp", 1, [5.0, 1.3], 266_610, [512, 512])
    recorded(directory, "hp", 0, [1.2, 1.4], 53_322, [100, 100])
    recorded(directory, "dynhp-0.95", 0, [3.0, 1.54], 133_305, [16, 32])
    recorded(directory, "hp+ce", 0, [3.0, 2.8], 53_322, [100, 100])
    return directory
