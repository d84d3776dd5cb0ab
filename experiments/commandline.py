"""Flags in, exit code out: what a person can mend becomes one line on stderr and exit code 2."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from absl import flags
from ml_collections import config_flags

from dynhp_jax import config as configuration
from dynhp_jax.errors import ConfigError, UserError

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141  # as a shell says it of a program that wrote to nobody
_AT_ONCE = (  # where nobody nearer by knows more
    "stopped at once; the same command goes on from what is saved, or begins anew where nothing is"
)


class Interrupted(Exception):
    """Ctrl-C, after everything was put in order; the text says how to go on."""


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Calls `main(argv)` and returns the exit code: 0, 2 for a user's error, 130 for Ctrl-C.

    Other exceptions are bugs and pass through with their traceback.
    """
    shown = warnings.showwarning
    warnings.showwarning = _show_warning
    logging.getLogger("absl").setLevel(logging.ERROR)  # libraries' advice to developers
    try:
        main(argv)
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
    except KeyboardInterrupt:
        return _fail("interrupted", _AT_ONCE, INTERRUPTED)
    finally:
        warnings.showwarning = shown
    return 0


def say(line: str) -> None:
    """One line on stderr, whatever line breaks the text holds."""
    print(" ".join(str(line).split()), file=sys.stderr, flush=True)


def warn(message: object) -> None:
    """A warning, as one line on stderr."""
    say(f"warning: {message}")


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
      sections: of the config, beside those of `dynhp_jax.config`, by name.
      workdir: the help of `--workdir`, with what the program takes where it is not given.

    Returns:
      The config with all overrides (an ml_collections.ConfigDict, None without), the workdir (''
      if it was not given), the values of the options and those of the switches.

    Raises:
      UserError: a flag that does not exist or a value that is not of its type.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", workdir, flag_values=values)
    flags.DEFINE_bool("help", False, "show the flags", short_name="h", flag_values=values)
    for name, default, text in options:
        flags.DEFINE_string(name, default, text, flag_values=values)
    for name, text in switches:
        flags.DEFINE_bool(name, False, text, flag_values=values)
    if with_config:
        _check_names(argv, sections)
        config_flags.DEFINE_config_file(
            "config",
            None,
            "file of the experiment, such as configs/digits.py;"
            " --config.FIELD=VALUE overrides one of its fields",
            flag_values=values,
            sys_argv=list(argv),
        )
    try:
        rest = values(list(argv))[1:]
        config = values["config"].value if with_config else None
        isinstance(config, Sequence)  # a file that could not be read shows itself when touched
        if config is not None:
            config.to_dict()
    except flags.IllegalFlagValueError as error:
        raise _illegal(error, sections) from None
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from None
    except OSError:
        raise UserError(
            f"--config: the file {_config_file(argv)!r} cannot be read;"
            f" the experiments here: {', '.join(_experiments()) or 'none in ./configs'}"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever code a config file runs
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"--config: {_config_file(argv)!r} is no config: {why}") from None
    if values["help"].value:
        print(values.get_help())
        raise SystemExit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is no flag; flags look like --workdir=runs/digits")
    if with_config and config is None:
        raise UserError("--config is missing; for a start: --config=configs/digits.py")
    names = [name for name, *_ in (*options, *switches)]
    return config, values["workdir"].value, *(values[name].value for name in names)


def _check_names(argv: Sequence[str], sections: Mapping[str, type]) -> None:
    """config_flags says only "'foo'" of an unknown --config.foo; our fields are known."""
    names = configuration.field_names(sections)
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in (*names, *configuration.SECTIONS, *sections):
            raise configuration.unknown_field(match[1], sections)


def _illegal(error: flags.IllegalFlagValueError, sections: Mapping[str, type]) -> UserError:
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    names = configuration.field_names(sections)
    if match is None:
        said, raised, _ = str(error).partition("Traceback")
        cause = str(error).strip().splitlines()[-1] if raised else ""  # of a config file
        return UserError(f"{said}{cause}")
    name, value = match.groups()
    if name in names:
        return ConfigError(name, value, configuration.allowed(name, sections))
    inside = ", ".join(each for each in names if each.startswith(f"{name}."))
    return ConfigError(name, value, f"no value of its own, it is a section; its fields: {inside}")


def _config_file(argv: Sequence[str]) -> str:
    found = ""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.match(r"--?config(?:=(.*))?$", argument):
            found = following if match[1] is None else match[1]
    return found


def _experiments() -> list[str]:
    if not os.path.isdir("configs"):
        return []
    return sorted(
        f"configs/{name}"
        for name in os.listdir("configs")
        if name.endswith(".py") and not name.startswith("_")
    )


def _disk_error(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return (
        f"{error.strerror or error}{where}; nothing was left half-written:"
        " make room, or choose a --workdir that can be written"
    )


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Our own warnings are for the user and take a line; those of others are for developers."""
    if issubclass(category, UserWarning) and "dynhp_jax" in filename:
        warn(message)


def _fail(kind: str, message: object, code: int) -> int:
    say(f"{kind}: {message}")
    return code
