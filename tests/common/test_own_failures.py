"""A criterion of one's own that is wrong: one line that names it, before training if it can be."""

import dataclasses
import re
import sys
import textwrap

import criteria_models as models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import fails, here
from comparisons import tiny
from own_modules import SMALL, criterion

import dynhp_jax as dp
from dynhp_jax.common.errors import UserError
from dynhp_jax.common.own_code import OwnCodeError
from dynhp_jax.pruning.criteria import registry
from dynhp_jax.pruning.options import ScoreOptions
from dynhp_jax.training import build, config
from dynhp_jax.training.compiled import programs
from dynhp_jax.training.files.workdir import Workdir
from dynhp_jax.training.run import trainer
from experiments import compare, train


def summed(sums, scores):
    """The same, of sums over examples."""
    content = criterion(
        scores,
        "from dynhp_jax.pruning.criteria.chunks import Summed",
        f"def sums(self, evidence): {sums}",
    )
    return content.replace("Mine:", "Mine(Summed):").replace(
        "def scores(self, evidence)", "def of_sums(self, evidence, sums, examples)"
    )


WRONG = {
    "raises": (criterion("raise KeyError('no such thing')"), "KeyError: 'no such thing' (own_"),
    "exits": (criterion("raise SystemExit"), "SystemExit"),
    "stops": (criterion("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "raises without a text": (
        criterion("raise Odd", "class Odd(Exception):\n  def __str__(self): raise ValueError"),
        "fails: Odd (own_",
    ),
    "many lines": (criterion("raise ValueError('\\n\\n one\\ntwo')"), "ValueError: one (own_"),
    "nan": (criterion("return {n: s * jnp.nan for n, s in ones.items()}"), "is nan; allowed"),
    "inf": (criterion("return {n: s / 0 for n, s in ones.items()}"), "is inf; allowed: finite"),
    "nan without examples' light": (
        criterion("dark = evidence.inputs[0].min() * 0\n"
                  "return {n: s * dark / dark for n, s in ones.items()}"),
        "is nan; allowed",
    ),
    "none": (criterion("return None"), "of the type NoneType; allowed: {group"),
    "no mapping": (criterion("return list(ones.items())"), "of the type list; allowed: {group"),
    "none of a group": (criterion("return dict.fromkeys(ones)"), "of the type NoneType; allowed"),
    "strings": (criterion("return dict.fromkeys(ones, 'high')"), "of the type str; allowed"),
    "lists": (criterion("return {n: [1.0] * s.size for n, s in ones.items()}"), "type list;"),
    "a number": (criterion("return dict.fromkeys(ones, 1.0)"), "of the type float; allowed"),
    "complex": (criterion("return {n: s + 1j for n, s in ones.items()}"), "complex64; allowed"),
    "bools": (criterion("return {n: s > 0 for n, s in ones.items()}"), "are bool; allowed: real"),
    "objects": (
        criterion("return {n: np.array([None] * s.size) for n, s in ones.items()}"),
        "are object; allowed: real",
    ),
    "texts": (
        criterion("return {n: np.array(['a'] * s.size) for n, s in ones.items()}"),
        "are <U1; allowed: real",
    ),
    "too many": (criterion("return {n: jnp.ones(s.size + 1) for n, s in ones.items()}"), "have sh"),
    "two axes": (criterion("return {n: s[:, None] for n, s in ones.items()}"), "have shape"),
    "sums that raise": (summed("exit()", "return ones"), "fails: SystemExit"),
    "scores of sums": (summed("return 0", "return sums"), "of the type "),
    "sums of examples": (summed("return evidence.inputs[0]", "return ones"), "its sums have sh"),
    "no group": (criterion("return {}"), "it gives scores of no group"),
    "a callback": (
        criterion("import jax\njax.debug.callback(int, 'x')\nreturn ones"), "ValueError: invalid"
    ),
    "another group": (criterion("return {'elsewhere': jnp.ones(3)}"), "no group 'elsewhere'"),
    "a numbered group": (criterion("return {0: jnp.ones(3)} | ones"), "a group 0; allowed"),
    "syntax": ("def def", "SyntaxError: invalid syntax (own_"),
    "null bytes": ("\0", "SyntaxError"),
    "import raises": (criterion(top="raise RuntimeError('not today')"), "not today (own_"),
    "import exits": (criterion(top="import sys; sys.exit(0)"), "fails: SystemExit: 0 (own_"),
    "imports what is not there": (criterion(top="import nowhere_at_all"), "ModuleNotFoundError"),
    "init": (criterion(body="def __init__(self, a=0): 1 / 0"), "ZeroDivisionError"),
    "init needs more": (criterion(body="def __init__(self, a): pass"), "missing 1 required"),
    "post init": (criterion(body="def __post_init__(self): exit()"), "SystemExit"),
    "hash": (criterion(body="def __hash__(self): raise KeyError('h')"), "KeyError: 'h'"),
    "no hash": (criterion(field="a: list = dataclasses.field(default_factory=list)"),
                "cannot be hashed"),
    "eq with hash": (
        criterion(body="def __eq__(self, other): raise KeyError('e')\n"
                       "def __hash__(self): return 1"),
        "KeyError: 'e'",
    ),
    "earlier epochs": (criterion(body="earlier_epochs = 'two'"), "earlier_epochs are 'two'"),
    "earlier epochs raise": (
        criterion(body="@property\ndef earlier_epochs(self): raise KeyError('x')"), "KeyError: 'x'"
    ),
    "too many earlier epochs": (criterion(body="earlier_epochs = 10**12"), "so many earlier"),
    "abstract": (
        criterion(top="import abc").replace("class Mine", "class Mine(abc.ABC)").replace(
            "    def scores", "    @abc.abstractmethod\n    def scores"),
        "abstract",
    ),
    "what only numbers show": (
        criterion("import jax\nreturn {n: s / jax.random.bernoulli(evidence.key, 0.0, s.shape)"
                  " for n, s in ones.items()}"),
        "is inf; allowed",
    ),
    "asks a tracer": (criterion("return ones if ones['hidden_1'][0] > 0 else {}"), "Tracer"),
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    return build.dataset_of(config.Config())


def own_run(text):
    return config.Config(
        method="scores", epochs=3, model=config.Model(hidden=(8,)),
        scores=ScoreOptions(text, start=2), batch=config.Batch(variance="none"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_criterion_of_ones_own_that_is_wrong_is_one_line_before_training(
    kind, own_module, dataset
):
    content, said = WRONG[kind]
    text = f"{own_module(content)}:Mine"
    with pytest.raises(UserError) as caught:
        trainer.Trainer(own_run(text), dataset, programs.Programs()).start()
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    [
        "raises",
        "exits",
        "stops",
        "a callback",
        "nan",
        "complex",
        "none",
        "import exits",
        "eq with hash",
    ],
)
def test_from_the_command_line_it_is_exit_code_2(kind, own_module, tmp_path, capfd):
    content, said = WRONG[kind]
    text, workdir = f"{own_module(content)}:Mine(a=1)", tmp_path / "run"
    flags = [*SMALL, f"--config.scores.criterion={text}", f"--workdir={workdir}"]
    found = fails(capfd, train.main, *flags)
    assert text in found and said in found and not workdir.exists()


@pytest.mark.parametrize("kind", ["raises", "exits", "nan", "syntax", "another group"])
def test_of_a_list_that_is_compared_it_is_named_before_the_warm_up(
    kind, own_module, tmp_path, capfd
):
    content, said = WRONG[kind]
    text, results = f"{own_module(content)}:Mine", tmp_path / "results"
    found = fails(
        capfd, compare.main, *tiny(f"--config.compare.criteria=('l1', '{text}')"),
        f"--workdir={tmp_path / 'runs'}", f"--results={results}",
    )  # fmt: skip
    assert text in found and said in found
    assert not (tmp_path / "runs").exists() and not results.exists()


LATE = """
    from pathlib import Path

    def late():
        return (Path(__file__).parent / "run" / "metrics.jsonl").exists()
"""


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ("return {n: s / (0 if late() else 1) for n, s in ones.items()}", "is inf; allowed"),
        ("if late(): raise SystemExit(0)\nreturn ones", "fails: SystemExit: 0"),
    ],
)
def test_what_shows_only_later_keeps_the_last_checkpoint(scores, said, own_module, tmp_path, capfd):
    text = f"{own_module(criterion(scores, textwrap.dedent(LATE)))}:Mine"
    workdir = Workdir(tmp_path / "run")
    flags = [*SMALL, f"--config.scores.criterion={text}", f"--workdir={workdir.path}"]
    found = fails_after_training(capfd, *flags)
    assert text in found and said in found and "the checkpoint of epoch 2 is kept in" in found
    assert [record["epoch"] for record in workdir.records()] == [1, 2]
    # Nor does it go on, and what is there stays.
    assert text in fails_after_training(capfd, *flags)
    assert [record["epoch"] for record in workdir.records()] == [1, 2]


def fails_after_training(capfd, *flags):
    code, _, said = here(capfd, train.main, *flags)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and "Traceback" not in said
    return line


# -- in Python -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Given:
    """Scores that are handed in."""

    make: object

    def scores(self, evidence):
        return self.make(evidence)


@pytest.mark.parametrize(
    "make",
    [
        lambda evidence: {}["missing"],
        lambda evidence: sys.exit(0),
        lambda evidence: {"hidden_1": jnp.full(8, jnp.inf)},
        lambda evidence: {"hidden_1": np.ones(8) > 0},
        lambda evidence: {"hidden_1": None},
        lambda evidence: {"nowhere": jnp.ones(8)},
        lambda evidence: evidence.need("mine", "gates"),
        lambda evidence: {
            "hidden_1": jax.pure_callback(failing, jax.ShapeDtypeStruct((8,), jnp.float32))
        },
    ],
)
def test_score_names_the_criterion_that_fails(make):
    for called, name in (("", "test_own_failures:Given"), ("mine:Half(a=1)", "mine:Half(a=1)")):
        with pytest.raises(OwnCodeError, match=re.escape(f"criterion '{name}'")) as caught:
            dp.score(Given(make), models.evidence("mlp"), called)
        assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
        assert str(caught.value).count("criterion '") == 1 + ("needs" in str(caught.value))
        assert caught.value.__cause__ is not None  # the traceback is there for whoever needs it


def failing():
    raise OSError("no such device")


@pytest.mark.parametrize("what", [5, None, Given, "l1 of the class"])
def test_what_is_no_criterion_is_named_too(what):
    what = registry.CRITERIA["l1"] if what == "l1 of the class" else what
    with pytest.raises(OwnCodeError, match="criterion '.*:(int|NoneType|Given|L1)' fails"):
        dp.score(what, models.evidence("mlp"))
