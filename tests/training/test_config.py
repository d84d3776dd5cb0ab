import dataclasses
import json
import math

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhp_jax.common.errors import ConfigError, UserError
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config


def changed(name, value):
    """The default config as nested dictionaries, with one field changed."""
    values = configuration.default_config_dict().to_dict()
    section, _, last = name.rpartition(".")
    (values[section] if section else values)[last] = value
    return values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pruning.gamma", 1.01),
        ("pruning.gamma", -0.01),
        ("pruning.gamma", math.nan),
        ("pruning.gamma", True),
        ("pruning.groups", "hidden_1"),
        ("penalty.lam", -1e-9),
        ("penalty.lam", math.inf),
        ("penalty.convention", "paper"),
        ("batch.alpha", 1.5),
        ("batch.alpha", -0.5),
        ("batch.size", -1),
        ("batch.size", 12.5),
        ("batch.decay", 1.0),
        ("batch.grid", 0.9),
        ("data.name", "svhn"),
        ("data.validation", 1.0),
        ("data.resident", "much"),
        ("data.resident", "0"),
        ("data.resident", 4096),
        ("devices", -1),
        ("devices", True),
        ("model.hidden", (300, 0)),
        ("model.hidden", (300.0,)),
        ("gates.per_example", 1),
        ("gates.open_hidden", 1.0),
        ("optimizer.learning_rate", 0.0),
        ("compiling.shrink", 1.0),
        ("checkpoint.keep", 0),
        ("epochs", 0),
        ("seed", "zero"),
        ("seed", 2**32),
        ("batch.size", 10**400),
        ("penalty.lam", 10**400),
        ("method", "soft"),
        ("data", 3),
    ],
)
def test_a_wrong_value_names_the_field_what_was_found_and_what_is_allowed(name, value):
    with pytest.raises(ConfigError) as caught:
        configuration.from_dict(changed(name, value))
    assert str(caught.value).startswith(f"config.{name} is {value!r}; allowed: ")
    assert caught.value.field == name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pruning.gamma", "batch.alpha"])
def test_the_ends_of_closed_intervals_are_allowed(name):
    for value in (0, 1, 0.0, 1.0):
        config = configuration.from_dict(changed(name, value))
        assert configuration.flatten(config)[name] == value


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pruning.gama", "pruning.gamma"),
        ("gamma", "pruning.gamma"),
        ("prunning.gamma", "pruning.gamma"),
        ("lam", "penalty.lam"),
        ("epoch", "epochs"),
        ("data.dirs", "data.dir"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(name, nearest):
    values: dict = {}
    section, _, last = name.rpartition(".")
    if section:
        values[section] = {last: 1}
    else:
        values[last] = 1
    with pytest.raises(UserError) as caught:
        configuration.from_dict(values)
    assert nearest in str(caught.value)


def test_method_decides_the_batch():
    rules = {m: Config(method=m).batching for m in configuration.METHODS}
    assert {m: (b.rule, b.size) for m, b in rules.items()} == {
        "dynhp": ("dynhp", 16),
        "hp": ("fixed", 128),
        "sp": ("fixed", 128),
        "dense": ("fixed", 128),
        "scores": ("fixed", 128),
    }
    values = configuration.default_config_dict()
    values.method, values.batch.size, values.batch.rule = "sp", 40, "cabs"
    config = configuration.from_config_dict(values)
    assert (config.batching.rule, config.batching.size) == ("cabs", 40)
    assert config.gated and not config.prunes


def test_a_rule_that_needs_the_variance_cannot_do_without():
    with pytest.raises(ConfigError, match=r"config.batch.variance .*'dynhp'"):
        Config(method="dynhp", batch=configuration.Batch(variance="none"))
    assert Config(method="hp", batch=configuration.Batch(variance="none")).prunes


def test_a_config_dict_goes_through_and_missing_fields_take_defaults():
    partial = ml_collections.ConfigDict({"epochs": 3, "penalty": {"lam": 1}})
    config = configuration.from_config_dict(partial)
    assert config.epochs == 3
    assert config.penalty == configuration.Penalty(lam=1.0)
    assert isinstance(config.penalty.lam, float)
    assert config.pruning == configuration.Pruning()


def test_json_gives_the_same_config_back():
    config = Config(
        seed=3,
        model=configuration.Model(hidden=(20, 7)),
        pruning=configuration.Pruning(groups=("hidden_1",)),
    )
    again = configuration.from_dict(json.loads(json.dumps(configuration.to_dict(config))))
    assert again == config
    assert hash(again) == hash(config)


def test_every_field_has_a_rule_and_a_help_text():
    for name in configuration.field_names():
        assert configuration.allowed(name)
        section, _, last = name.rpartition(".")
        holder = configuration.SECTIONS[section] if section else Config
        assert holder.__dataclass_fields__[last].metadata["rule"].help


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_gamma_is_accepted_exactly_when_it_lies_between_0_and_1(value):
    try:
        configuration.Pruning(gamma=value)
        accepted = True
    except ConfigError:
        accepted = False
    assert accepted == (0 <= value <= 1)


def test_differences_name_fields_and_allow_more_epochs_and_other_paths():
    base = Config(epochs=10)
    longer = dataclasses.replace(base, epochs=11)
    assert configuration.differences(base, longer) == []
    (fewer,) = configuration.differences(longer, base)
    assert "config.epochs" in fewer and "11" in fewer and "10" in fewer
    elsewhere = dataclasses.replace(base, data=configuration.Data(dir="/elsewhere"))
    assert configuration.differences(base, elsewhere) == []
    spelt_out = dataclasses.replace(base, batch=configuration.Batch(size=16, rule="dynhp"))
    assert configuration.differences(base, spelt_out) == []
    other = dataclasses.replace(base, seed=1, pruning=dataclasses.replace(base.pruning, gamma=0.25))
    found = configuration.differences(base, other)
    assert [phrase.split()[0] for phrase in found] == ["config.seed", "config.pruning.gamma"]
    assert "0.5" in found[1] and "0.25" in found[1]
