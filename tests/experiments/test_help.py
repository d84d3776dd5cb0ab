"""`--help` says every field of a config: name, type, default, meaning, what is allowed."""

import dataclasses
import re

import pytest

from dynhp_jax.training import config as configuration
from experiments import compare, decentralised, field_help, memory, sweep, train
from experiments.comparison.settings import Comparison
from experiments.nodes.settings import Nodes

OWN = {compare: {"compare": Comparison}, decentralised: {"nodes": Nodes}}


PROGRAMS = [train, sweep, memory, compare, decentralised]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda m: m.__name__)
def test_every_field_is_in_the_help_of_each_program(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        program.main(["program", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, shown.splitlines())) <= 100
    words = " ".join(shown.split())
    own = OWN.get(program, {})
    for name in configuration.field_names(own):
        section, _, last = name.rpartition(".")
        holder = {**configuration.SECTIONS, **own}[section] if section else configuration.Config
        field = holder.__dataclass_fields__[last]
        said = f"{field.metadata['rule'].help}. Allowed: {configuration.allowed(name, own)}."
        pattern = rf"--config\.{re.escape(name)}: \S.*?, default {re.escape(repr(field.default))} "
        assert re.search(pattern + re.escape(" ".join(said.split())), words), name


def test_a_field_of_ones_own_needs_no_second_line():
    @dataclasses.dataclass(frozen=True)
    class Mine(configuration.Section):
        wide: int = configuration.whole(3, 1, "how wide it is")

    shown = field_help.text({"mine": Mine}, width=60)
    assert "  --config.mine.wide: int, default 3\n      how wide it is. Allowed:" in shown
    assert max(map(len, shown.splitlines()[1:])) <= 80  # names of fields are not broken
