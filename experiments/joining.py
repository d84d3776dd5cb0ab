"""How the processes of one run find each other: by flags, by the environment, or by a cluster."""

import os
import socket
import time

import jax

from dynhp_jax.common import processes
from dynhp_jax.common.errors import UserError

_FLAGS = ("coordinator_address", "num_processes", "process_id")
_VARIABLES = tuple(f"JAX_{flag.upper()}" for flag in _FLAGS)
OPTIONS = [
    (
        "coordinator_address",
        "",
        f"ADDRESS:PORT of process 0, where several train one run; empty: ${_VARIABLES[0]}",
    ),
    ("num_processes", "", f"how many processes these are; empty: ${_VARIABLES[1]}"),
    ("process_id", "", f"which of them this one is, from 0; empty: ${_VARIABLES[2]}"),
    ("heartbeat_timeout", "100", "seconds without a sign of life after which a process is dead"),
]
PATIENCE_S = 300.0  # until process 0 is there
SWITCHES = [
    ("distributed", "several processes train one run, as Slurm, Open MPI, Kubernetes or a TPU says")
]


def join(address: str, count: str, number: str, heartbeat: str, cluster: bool) -> None:
    """Joins the other processes, if there are any.

    Args:
      address, count, number, heartbeat: the flags of OPTIONS, as given.
      cluster: whether whatever started the processes knows these.

    Raises:
      UserError: some of it is missing or is no number, or the others cannot be reached.
    """
    given = [
        flag or os.environ.get(name, "")
        for flag, name in zip((address, count, number), _VARIABLES, strict=True)
    ]
    if not any(given) and not cluster:
        return
    address, count, number = given[0] or None, *map(_whole, given[1:], _FLAGS[1:])
    known = dict(zip(_FLAGS, (address, count, number), strict=True))
    missing = [flag for flag, value in known.items() if value is None]
    if missing and not cluster:
        raise UserError(
            f"--{missing[0]} is missing; several processes need --{', --'.join(_FLAGS)} (or"
            f" {', '.join(_VARIABLES)} in the environment), or --distributed on a cluster that"
            " knows them"
        )
    if count is not None and number is not None and not number < count:
        raise UserError(f"--process_id is {number}; allowed: 0 to {count - 1}, each of them once")
    if address is not None:
        _check(address, number)
    seconds = _whole(heartbeat, "heartbeat_timeout") or 1
    processes.heartbeat(seconds)
    try:
        jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
        jax.distributed.initialize(**known, heartbeat_timeout_seconds=seconds)
    except (ValueError, RuntimeError, OSError) as error:
        words = " ".join(str(error).split())[:300]
        raise UserError(
            f"the processes do not find each other ({words}); start all of them, with the same"
            " --coordinator_address and --num_processes"
        ) from None


def _check(address: str, number: int | None) -> None:
    """Looks whether process 0 can be there, or is: JAX ends the program where that fails.

    Raises:
      UserError: the address is none, its port is taken, or process 0 is not reached for PATIENCE_S.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator_address is {address!r}; allowed: ADDRESS:PORT of process 0")
    if number == 0:
        try:
            with socket.create_server(("", int(port))):
                return
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at port {port} ({error.strerror or error}); take another"
                " one in --coordinator_address"
            ) from None
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"process 0 is not to be reached at {address} ({error.strerror or error});"
                    " start it, with the same --coordinator_address"
                ) from None
        time.sleep(0.1)


def _whole(text: str, flag: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(f"--{flag} is {text!r}; allowed: a whole number")
    return int(text)
