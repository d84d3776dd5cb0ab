"""Flags in, exit code out: what a person can mend becomes one line on stderr and exit code 2."""

import itertools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
from absl import flags
from ml_collections import config_flags

from dynhp_jax.common import processes
from dynhp_jax.common.errors import ConfigError, UserError, shown
from dynhp_jax.common.notices import Notice
from dynhp_jax.training import config as configuration
from experiments import config_file, field_help
from experiments.interrupting import AT_ONCE, INTERRUPTED, raised

USER_ERROR = 2
_CONFIG_HELP = (
    "file of the experiment, such as configs/digits.py;"
    " --config.FIELD=VALUE overrides one of its fields"
)
BROKEN_PIPE = 141  # as a shell says it of a program that wrote to nobody
_LONGEST = 2_000  # characters of a line on stderr
_CONFIGS = Path(__file__).parents[1] / "configs"  # of the project


class Interrupted(Exception):
    """Ctrl-C, after everything was put in order; the text says how to go on."""


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Calls `main(argv)` and returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C.

    Other exceptions are bugs and pass through with their traceback.
    """
    showing = warnings.showwarning
    warnings.showwarning = _show_warning
    logging.getLogger("absl").setLevel(logging.ERROR)  # libraries' advice to developers
    for name in ("jax._src.callback", "jax._src.debugging"):  # they raise what they log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with raised():
            code = _run(main, argv)
    except KeyboardInterrupt:
        code = _fail("interrupted", AT_ONCE, INTERRUPTED)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = 1
    finally:
        warnings.showwarning = showing
    if code and jax.distributed.is_initialized():
        processes.leave(code)
    return code


def _run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    try:
        main(argv)
        sys.stdout.flush()
    except UserError as error:
        return _fail("error", error, USER_ERROR)
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain when it flushes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail("error", _disk_error(error), USER_ERROR)
    except Interrupted as stop:
        return _fail("interrupted", stop, INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        return _fail("error", _of_the_machine(error), USER_ERROR)
    return 0


def say(line: str) -> None:
    """One line on stderr, whatever line breaks the text holds and however long it is."""
    text = " ".join(str(line).split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    print(text, file=sys.stderr, flush=True)


def parse(
    argv: Sequence[str],
    with_config: bool,
    options: Sequence[tuple[str, str, str]] = (),
    switches: Sequence[tuple[str, str]] = (),
    sections: Mapping[str, type] = MappingProxyType({}),
    workdir: str = "directory of the run",
) -> tuple:
    """Reads `--workdir` and, where wanted, `--config` with its overrides.

    Args:
      argv: the program's name and its arguments.
      with_config: whether there is a `--config`; then it has to be given.
      options: further flags that take a string, as (name, default, help).
      switches: further flags that are given or not, as (name, help).
      sections: of the config, beside those of `dynhp_jax.training.config`, by name.
      workdir: the help of `--workdir`, with what the program takes where it is not given; '' for a
        program that has none.

    Returns:
      The config with all overrides (an ml_collections.ConfigDict, None without), the workdir (''
      if it was not given), the values of the options and those of the switches.

    Raises:
      UserError: a flag that does not exist or a value that is not of its type, or a config file
        that fails.
      SystemExit: with 0, after the flags were shown.
    """
    values = flags.FlagValues()
    if workdir:
        flags.DEFINE_string("workdir", "", workdir, flag_values=values)
    flags.DEFINE_bool("help", False, "show the flags", short_name="h", flag_values=values)
    for name, default, text in options:
        flags.DEFINE_string(name, default, text, flag_values=values)
    for name, text in switches:
        flags.DEFINE_bool(name, False, text, flag_values=values)
    if _asks_for_help(argv):
        if with_config:
            flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=values)
        print(values.get_help())
        if with_config:
            print(f"\n{field_help.text(sections)}")
        raise SystemExit(0)
    file = config = None
    argv = _all_arguments(argv)
    if with_config:
        _check_names(argv, sections)
        file, argv = config_file.split(_last_of_each(argv, configuration.tuple_fields(sections)))
        if file is None:
            first = _configs() / "digits.py"
            raise UserError(f"--config is missing; for a start: --config={first}")
    try:
        if file is not None:
            config = config_file.load(file)
            config_flags.DEFINE_config_dict(
                "config", config, _CONFIG_HELP, flag_values=values, sys_argv=list(argv)
            )
        rest = values(list(argv))[1:]
    except flags.IllegalFlagValueError as error:
        raise _illegal(error, sections) from None
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from None
    except OSError:
        raise UserError(
            f"--config: the file {shown(file)} cannot be read;"
            f" the experiments are: {', '.join(_experiments())}"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever config_flags makes of fields that are not there
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"--config: {file!r} is no config: {why}") from None
    if rest:
        raise UserError(f"{rest[0]!r} is no flag; flags look like --workdir=runs/digits")
    names = [name for name, *_ in (*options, *switches)]
    path = values["workdir"].value if workdir else ""
    return config, path, *(values[name].value for name in names)


def _all_arguments(argv: Sequence[str]) -> list[str]:
    """With those that --flagfile= names in its place.

    Raises:
      UserError: such a file cannot be read.
    """
    try:
        return flags.FlagValues().read_flags_from_files(list(argv), force_gnu=False)
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}; see --help") from None


def _last_of_each(argv: Sequence[str], fields: Collection[str]) -> list[str]:
    """Of flags of these fields only the last ones: config_flags would join tuples to a longer one.

    >>> _last_of_each(["--config.a=(1,)", "--b", "--config.a", "(2,)"], ["a"])
    ['--b', '--config.a', '(2,)']
    """
    kept: dict[object, list[str]] = {}
    rest = iter(argv)
    for number, argument in enumerate(rest):
        if argument == "--":
            kept[number] = [argument, *rest]
            break
        match = re.match(r"--?config\.([^=]+)(=)?", argument, re.DOTALL)
        if match is None or match[1] not in fields:
            kept[number] = [argument]
            continue
        kept.pop(match[1], None)
        kept[match[1]] = [argument] if match[2] else [argument, *itertools.islice(rest, 1)]
    return [argument for words in kept.values() for argument in words]


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(re.fullmatch(r"--?(h|help)(=true|=1)?", argument) for argument in argv[1:])


def _check_names(argv: Sequence[str], sections: Mapping[str, type]) -> None:
    """config_flags says only "'foo'" of an unknown --config.foo; our fields are known."""
    names = configuration.field_names(sections)
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in (*names, *configuration.SECTIONS, *sections):
            raise configuration.unknown_field(match[1], sections)


def _illegal(error: flags.IllegalFlagValueError, sections: Mapping[str, type]) -> UserError:
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    names = configuration.field_names(sections)
    if match is None:
        return UserError(str(error))
    name, value = match.groups()
    if name in names:
        return ConfigError(name, value, configuration.allowed(name, sections))
    inside = ", ".join(each for each in names if each.startswith(f"{name}."))
    return ConfigError(name, value, f"no value of its own, it is a section; its fields: {inside}")


def _configs() -> Path:
    """Where the experiments lie, as it can be typed here: the project's own may be elsewhere."""
    here = Path("configs")
    return here if any(here.glob("[!_]*.py")) else _CONFIGS


def _experiments() -> list[str]:
    return sorted(map(str, _configs().glob("[!_]*.py"))) or [f"none in {_CONFIGS}"]


def _of_the_machine(error: MemoryError | RuntimeError) -> str:
    """What the memory or the devices here refuse; other errors are bugs, and are raised again."""
    text = str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"there is not enough memory ({text or 'to go on'}); take a smaller network or"
            " mini-batch, or let config.memory.meter=xla hold it to a config.memory.budget"
        )
    if "Unable to initialize backend" in text:
        return f"{text}; set JAX_PLATFORMS to what is here, such as cpu"
    raise error


def _disk_error(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return (
        f"{error.strerror or error}{where}; nothing was left half-written:"
        " make room, or choose a --workdir that can be written"
    )


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Our own warnings are for the user and take a line; those of others are for developers."""
    ours = issubclass(category, UserWarning) and "dynhp_jax" in filename
    if ours or issubclass(category, Notice):
        say(f"warning: {message}")


def _fail(kind: str, message: object, code: int) -> int:
    say(f"{kind}: {message}")
    return code
