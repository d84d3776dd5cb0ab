"""Command lines that must be refused in one line, for all six programs, as a table."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator

LONG = "a" * 300  # no file system takes a name of so many letters
DIGITS = "9" * 5000  # Python itself refuses to read so many
ROOM = 2**34  # bytes of address space of a small machine

SMALL = (
    "--config={configs}/digits.py --config.epochs=1 --config.model.hidden='(4,)'"
    " --config.method=dense"
)
SWEEP = f"{SMALL} --seeds=0,1"
COMPARE = (
    "--config={configs}/compare_fmnist.py --config.data.name=digits --config.data.examples=0"
    " --config.data.validation=0.1 --config.model.name=mlp --config.model.hidden='(8,)'"
    " --config.epochs=1 --config.compare.test=0 --config.compare.criteria=\"('l1',)\""
    " --config.compare.fractions='(0.5,)' --config.compare.seeds='(0,)'"
    " --config.compare.methods=\"('hp',)\""
)
ROWS = "--table=2 --epochs=1 --seeds=0"
TABLE = f"{ROWS} --rows=hp"
MEMORY = "--config={configs}/digits.py"
START = {
    "train": SMALL,
    "sweep": SWEEP,
    "compare": COMPARE,
    "reproduce": TABLE,
    "memory": MEMORY,
    "evaluate": "",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A call that must be refused.

    Attributes:
      program: which.
      arguments: of it; `{configs}` stands for the folder of the project's configs.
      files: {name: text} of files in the folder from which it is called.
      environment: variables to set, or None to take away.
      room: bytes of address space, None for all there are.
    """

    program: str
    arguments: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    room: int | None = None

    @property
    def name(self) -> str:
        """What tells it from the others, without what is always there."""
        usual = {*shlex.split(START[self.program]), *shlex.split(SMALL)}
        given = [each for each in self.arguments if each not in usual] or list(self.arguments)
        given += [f"{name}={value}" for name, value in self.environment]
        given += [text for _, text in self.files]
        words = " ".join(given).encode("unicode_escape").decode()
        return f"{self.program} {words if len(words) < 160 else words[:150] + '...'}"


def case(program: str, more: str = "", *given: str, start: str | None = None, **options) -> Case:
    """A program's usual flags, further ones as a shell reads them, and some as they are."""
    usual = START[program] if start is None else start
    return Case(program, (*shlex.split(f"{usual} {more}"), *given), **options)


def every() -> list[Case]:
    """All cases."""
    return [
        *_paths(), *_environments(), *_names(), *_sizes(), *_networks(), *_sweeps(),
        *_comparisons(), *_tables(), *_planner(), *_flags(), *_config_files(), *_criteria(),
    ]  # fmt: skip


# -- paths and names ---------------------------------------------------------------------------

_PATHS = ("~nosuch/x", "a\0b", LONG, "/proc/self/nothing/x", "here.txt/x", "/" + "a/" * 2000)


def _paths() -> Iterator[Case]:
    files = (("here.txt", "x"),)
    for path in _PATHS:
        for program in ("train", "sweep", "compare", "reproduce", "evaluate"):
            yield case(program, "", f"--workdir={path}", files=files)
        for program in ("compare", "reproduce"):
            yield case(program, "", f"--results={path}", files=files)
    yield case("compare", "--print --results=~nosuch/x")
    for what in ("--table=2 --print", "--figures", "--table=2 --calibrate --rows=dynhp-1"):
        yield case("reproduce", f"{what} --results=~nosuch/x", start="")
    for field in ("data.dir", "data.cache_dir", "compiling.cache_dir"):
        data = "--config.data.name=mnist" if field == "data.cache_dir" else ""
        for path in ("~nosuch/x", "a\0b", LONG, "here.txt/x"):
            if (field, path) != ("data.cache_dir", "here.txt/x"):  # trains, and warns
                yield case("train", data, f"--config.{field}={path}", files=files)
        yield case("memory", data, f"--config.{field}=~nosuch/x")


def _environments() -> Iterator[Case]:
    data = "--config.data.name=mnist"
    for path in ("~nosuch/x", LONG):
        yield case("train", environment=(("DYNHP_CACHE", path),))
        yield case("train", environment=(("DYNHP_CACHE", None), ("XDG_CACHE_HOME", path)))
    for name in ("TFDS_DATA_DIR", "DYNHP_ORIGINALS"):
        values = (("DYNHP_CACHE", "empty"), ("TFDS_DATA_DIR", None), (name, "~nosuch/x"))
        yield case("train", data, environment=values)
    for program in ("memory", "reproduce"):
        yield case(program, environment=(("DYNHP_CACHE", "~nosuch/x"),))


def _names() -> Iterator[Case]:
    for name in ("../outside/x", "a/../../x", "..", ".", "", "/absolute", "a//b", "a/", "a\0b",
                 "a\nb", "\x1b[31m", LONG, " ", "a/ /b", "./a", "\x7f"):  # fmt: skip
        yield case("train", "", f"--config.name={name}")
    for name in ("../outside/x", "", "/absolute", LONG):
        for program in ("sweep", "compare"):
            yield case(program, "", f"--config.name={name}")
    yield case("memory", "--config.name=../x")
    for name in (DIGITS[:300], "", "\0"):
        for field in ("data.name", "model.name", "method"):
            yield case("train", "", f"--config.{field}={name}")


# -- numbers -----------------------------------------------------------------------------------

_NUMBERS = {
    "model.hidden": ("(1000000000000,)", f"({DIGITS[:23]},)", "(2147483647,2147483647)", "(0,)",
                     "(-1,)", "(1.5,)", "(True,)", "('a',)", "[", "(1", DIGITS, "(nan,)", "()(",
                     "((1,),)", "None"),
    "model.width": ("1e308", "1e30", "1e400", "nan", "-1", "inf", "1e7"),
    "model.depth": ("-1", DIGITS[:20]),
    "data.examples": (DIGITS[:20], "1000000", "-1", DIGITS, "nan", "1.5"),
    "batch.size": (DIGITS[:20], "2147483647", "-1", "1e3"),
    "memory.sp_batch": (DIGITS[:20], "0", "2147483647"),
    "memory.budget": (DIGITS, f"{DIGITS}MiB", f"0.{'0' * 5000}1MiB", "1e400", "nan", "inf", "-1",
                      "", "M" * 5000, "5" + "M" * 5000, "\0"),
    "data.resident": (DIGITS, "nan", "", "0"),
    "epochs": (DIGITS[:20], DIGITS, "0", "-1", "nan", "1e3", ""),
    "seed": (DIGITS[:20], "-1", DIGITS),
    "devices": ("1000", DIGITS[:20]),
    "batch.micro_batches": (DIGITS[:20],),
    "penalty.lam": ("nan", "inf", "1e400", "-inf", DIGITS),
    "optimizer.learning_rate": ("nan", "inf", "0", "-0.0"),
    "optimizer.ema": ("inf", "nan"),
    "optimizer.weight_decay": ("nan",),
    "data.noise": ("inf", "nan"),
    "data.shift": ("1e300", "nan"),
    "data.validation": ("nan", "1", "-0.1"),
    "pruning.gamma": ("nan", "1e400"),
    "batch.alpha": ("nan",),
    "batch.grid": ("nan", "inf", "0.5", "1e7"),
    "batch.eta": ("1e400",),
    "batch.decay": ("nan",),
    "checkpoint.every": (DIGITS[:20], "0"),
    "checkpoint.keep": (DIGITS[:20],),
    "compiling.shrink": ("1",),
    "distillation.temperature": ("nan",),
    "gates.open_hidden": ("nan",),
    "scores.fraction": ("nan",),
    "scores.examples": (DIGITS[:20],),
    "memory.allow": ("('x',)",),
}  # fmt: skip


def _sizes() -> Iterator[Case]:
    for field, values in _NUMBERS.items():
        for value in values:
            yield case("train", "", f"--config.{field}={value}")
    for groups in ("('\0',)", "(1,)", f"('{LONG}',)"):
        yield case("train", "--config.method=hp", f"--config.pruning.groups={groups}")
    for program in ("sweep", "memory", "compare"):
        yield case(program, "--config.model.width=1e308")
        yield case(program, "", f"--config.epochs={DIGITS}")


def _networks() -> Iterator[Case]:
    """Networks that no machine, or not this one, can hold."""
    free = "--config.memory.budget=none"
    for hidden in ("(1000000000000,)", "(50000,50000)", "(1000000000,)"):
        yield case("train", f"{free} --config.model.hidden='{hidden}'", room=ROOM)
        for program in ("sweep", "compare"):
            yield case(program, f"--config.model.hidden='{hidden}'", room=ROOM)


# -- the other programs --------------------------------------------------------------------------


def _sweeps() -> Iterator[Case]:
    for values in ("--seeds=0,0", "--seeds=0,00", f"--seeds={DIGITS[:20]}", f"--seeds={DIGITS}",
                   "--seeds=-1", "--seeds=a", "--seeds=0,", "--seeds=1.5", "--lams=nan",
                   "--lams=inf,1", "--lams=1e400", "--lams=0.1,0.10", "--alphas=2", "--alphas=nan",
                   "--gammas=-1", "--gammas=1e400", "--seeds=", ""):  # fmt: skip
        yield case("sweep", values, start=SMALL)
    for more in ("--config.method=scores", "--config.batch.size=100000"):
        yield case("sweep", more)
    yield case("sweep", "--seeds=0,1 --config.memory.meter=xla", start=MEMORY)


_COMPARED = {
    "lams": ("(1e400,)", "(nan,)", "(0.1,0.1)", "(-1,)", "('a',)"),
    "seeds": (f"({DIGITS[:20]},)", "(-1,)", "(0,0)", "(1.5,)", "(4294967296,)", "(True,)"),
    "fractions": ("(nan,)", "(1e400,)", "(0.5,0.5)", "(0,)", "(1,)"),
    "epochs": (DIGITS[:20], "-1", DIGITS),
    "test": (DIGITS[:20], "1000000"),
    "criteria": ("('l1','l1')", f"('{LONG}',)", "('',)", "('l1','nosuch')", "('\0',)", "(1,)",
                 "('flexrel(delta=nan)',)", "('flexrel(delta=1e400)',)",
                 "('l1(members=both',)"),
    "methods": ("('hp','hp')", "('x',)"),
    "cut": ("../x",),
}  # fmt: skip


def _comparisons() -> Iterator[Case]:
    for field, values in _COMPARED.items():
        for value in values:
            yield case("compare", "", f"--config.compare.{field}={value}")
    for more in ("--config.batch.size=100000", "--config.memory.budget=1KiB"):
        yield case("compare", more)
    yield case("compare", start="--config={configs}/digits.py")


def _tables() -> Iterator[Case]:
    for rows in ("hp+scores.criterion=a/../../x", "hp+memory.budget=../x", "hp+name=x",
                 f"hp+{LONG}=1", "hp+ce+ce", "hp,hp", "dynhp-0.5,dynhp-0.50", "hp+batch.size=-1",
                 "hp+batch.size=100000", "dynhp-nan", "dynhp-1e400", "dynhp-2", "hp+", "+",
                 "magnitude@magnitude@hp", "magnitude@sp", "hp+epochs=3",
                 f"hp+model.hidden={DIGITS}", "hp+penalty.lam=1e400", "hp+penalty.lam=nan",
                 "hp+model.hidden=(10**12,)", "hp+model.hidden=(1000000000000,)",
                 f"hp+{'(' * 300}", "hp+seed=\0", "sp,hp+batch.size=100000"):  # fmt: skip
        yield case("reproduce", ROWS, f"--rows={rows}", start="")
    for more in ("--seeds=0,0", f"--seeds={DIGITS[:20]}", f"--seeds={DIGITS}", "--seeds=nan",
                 "--alphas=0.5,0.5", "--alphas=nan", "--alphas=1e400", f"--epochs={DIGITS[:20]}",
                 f"--epochs={DIGITS}", "--epochs=0", "--epochs=nan", "--lam=nan", "--lam=1e400",
                 "--validation=nan", "--validation=2", "--variants=../x", "--variants=ce+ce",
                 "--variants=ce=", f"--variants={LONG}", "--variants=data.examples=99999999",
                 "--variants=batch.size=100000", "--table="):  # fmt: skip
        yield case("reproduce", more)
    for line in ("", f"--table={DIGITS}", "--table=2 --print --figures", "--figures --epochs=nan"):
        yield case("reproduce", line, start="")


def _planner() -> Iterator[Case]:
    for more in ("--widths=0.5,0.5", "--widths=nan", "--widths=1e-400", "--widths=2",
                 f"--widths={DIGITS}", "--batches=16,16", f"--batches={DIGITS[:20]}",
                 "--batches=16,5000", "--batches=nan", "--batches=0", "--budgets=1MiB,1MiB",
                 f"--budgets={DIGITS}", "--budgets=nan", "--budgets=-1", "--budgets=none",
                 "--workdir=x"):  # fmt: skip
        yield case("memory", more)


def _flags() -> Iterator[Case]:
    for more in ("--config.epochs", "--config.nosuch=1", "--nosuch", "--config",
                 "--config.model.hidden", "--config.batch=1", "--help=maybe", "--flagfile=nosuch",
                 "--flagfile", "--config.", "--config.=1", "positional",
                 "--config.gates.per_example=maybe", "--config.data.flip=2", "--noconfig.epochs",
                 "--config.model.hidden '(7'", "-- x", "--config.EPOCHS=1", "--config.model=None",
                 "--workdir"):  # fmt: skip
        yield case("train", more)
    for program in ("train", "sweep", "memory", "compare", "evaluate"):
        yield case(program, start="")
    for config in ("nosuch.py", "", "/", LONG, "a\0b", "~nosuch/x.py"):
        yield case("train", "", f"--config={config}", start="")
    for more in ("nosuch", ""):
        yield case("evaluate", f"--workdir={more}")
    yield case("evaluate", "--config=x")
    yield case("evaluate", "--workdir=here.txt", files=(("here.txt", "x"),))


# -- code of the person's own --------------------------------------------------------------------

_CONFIGS = (
    "x = 1", "def get_config(): return None", "def get_config(): return 5",
    "def get_config(): return []", "def get_config(: x", "def get_config(): 1 / 0",
    "import nosuch", "def get_config(): return dict(epochs=10**5000)",
    "def get_config(a): return a", "def get_config(): return {1: 2}", "\0",
    "def get_config(): return dict(name=chr(0))", "def get_config(): return dict(name=5)",
    "def get_config(): return dict(model=dict(hidden=(10**5000,)))",
    "def get_config(): return dict(penalty=dict(lam=10**5000))", "raise MemoryError",
    "raise RecursionError", "raise KeyboardInterrupt", "raise OSError(5)",
    "def get_config(): return get_config()", "def get_config(): return dict(data=5)",
    "def get_config(): return dict(compiling=dict(cache_dir=chr(0)))", "import sys; sys.exit(0)",
    "def get_config(): raise SystemExit", "def get_config(): exit()", "raise GeneratorExit",
)  # fmt: skip


def _config_files() -> Iterator[Case]:
    for text in _CONFIGS:
        yield case("train", start="--config=own.py", files=(("own.py", text),))
    for program, more in (("sweep", "--seeds=0,1"), ("memory", ""), ("compare", "")):
        for text in _CONFIGS[2::6]:
            yield case(program, start=f"--config=own.py {more}", files=(("own.py", text),))


_RETURNED = (
    "raise KeyError('x')", "raise SystemExit(0)", "raise KeyboardInterrupt", "return None",
    "return 5", "return {}[0]", "return 'text'", "return {'elsewhere': jnp.ones(3)}",
    *(f"return {{n: {value} for n in evidence.scored}}" for value in (
        "jnp.full(evidence.groups[n].size, jnp.nan)", "jnp.full(evidence.groups[n].size, jnp.inf)",
        "jnp.ones(evidence.groups[n].size + 1)", "jnp.ones(())", "'text'", "None",
        "jnp.ones(evidence.groups[n].size, complex)", "[['a'] * evidence.groups[n].size]",
        "jnp.ones((evidence.groups[n].size, 1))", "object()",
    )),
)  # fmt: skip
_MODULES = (
    "class Mine(:", "raise ImportError('x')", "import sys; sys.exit(0)", "Mine = 5", "",
    "def Mine(): return 5", "class Mine: pass", "class Mine:\n    scores = 5",
    "class Mine:\n    def __init__(self): 1 / 0\n    def scores(self, evidence): return {}",
    "class Mine:\n    def __init__(self): exit(0)\n    def scores(self, evidence): return {}",
    "class Mine:\n    __hash__ = None\n    def scores(self, evidence): return {}",
)  # fmt: skip
_SCORED = "--config.method=scores --config.scores.start=0 --config.batch.variance=none"


def _criteria() -> Iterator[Case]:
    head = (
        "import dataclasses\nimport jax.numpy as jnp\n\n@dataclasses.dataclass(frozen=True)\n"
        "class Mine:\n    def scores(self, evidence):\n        "
    )
    texts: Iterable[str] = [*(head + body for body in _RETURNED), *_MODULES]
    for text in texts:
        named = f"{_SCORED} --config.scores.criterion=own:Mine"
        yield case("train", named, files=(("own.py", text),))
    for text in list(texts)[:: len(_RETURNED) // 3]:
        named = "--config.compare.criteria=\"('own:Mine',)\""
        yield case("compare", named, files=(("own.py", text),))
    for name in ("subprocess:Popen(args=('touch', 'made'))", "os:system(command='touch made')",
                 "own:Other", "nosuch:Mine", "own:", ":Mine", "l1(members=open('made','w'))",
                 "l1(members=__import__('os'))", "builtins:eval", "l1(nosuch=1)"):  # fmt: skip
        yield case("train", _SCORED, f"--config.scores.criterion={name}")
