"""Which of two forms of a program is compiled and run on a CPU: with or without fused convolutions.

jaxlib fuses chains of convolutions and elementwise operations into calls of a library (YNNPACK).
Their memory is the library's; without the fusion XLA holds the values between the operations, and
leaves the convolutions to another library (Eigen). Either may take fewer bytes. Where a byte budget
counts both are compiled and tried, once, and the one that runs is the one that takes fewer, unless
it is much slower. Times are never the same twice, so what was decided is recorded, not decided
again.
"""

import enum
import uuid

import jax
from jax.errors import JaxRuntimeError

from dynhp_jax.memory import agreement, cpu_libraries, trial_records, trials
from dynhp_jax.memory.trial_records import Record, Records
from dynhp_jax.memory.trials import Trial

FUSION = "xla_cpu_experimental_ynn_fusion_type"  # the kinds of operations that are fused
UNCACHED = "xla_disable_hlo_passes"  # of a name that no pass has: only the key in the cache changes
LEAST = 2**18  # bytes that there may be to gain: the other form is not tried for less
# A budget asks for bytes, so the smaller form may take longer; and as processor seconds vary while
# the machine is busy, a narrow margin would have chance decide.
SLOWER = 1.5
# A run that takes many times as long is not waited for, but one of milliseconds says little.
STOPPED, AT_LEAST_S = 4.0, 3.0


class Measured(enum.Enum):
    """How much of a program has to be known."""

    NOT = "what XLA says of it"
    BYTES = "what it takes, as it is compiled by default"
    FORMS = "in which form it takes the fewest bytes"


def compile(lowered: jax.stages.Lowered, records: Records, measured: Measured):
    """The executable that is to run.

    Args:
      lowered: the program.
      records: of the run; what is known is taken from there, what is found is kept there.
      measured: how much of it has to be known, where it is for a CPU.

    Returns:
      A `jax.stages.Compiled`. What was found of it is `trial_records.attached`.
    """
    compiled = _compiled_as_measured(lowered, records, measured)
    agreement.name(compiled, lowered)
    return compiled


def _compiled_as_measured(lowered, records: Records, measured: Measured) -> jax.stages.Compiled:
    if jax.default_backend() != "cpu" or (measured is Measured.NOT and not records):
        return lowered.compile()
    asked = Measured.FORMS if measured is Measured.NOT else measured
    name = trial_records.fingerprint(lowered.as_text(), asked.name)
    record = records.get(name)
    if record is not None:
        compiled = _compiled(lowered, record.fusion)
    else:
        compiled = lowered.compile()
        if measured is Measured.NOT or not cpu_libraries.worth_a_trial(compiled):
            return compiled
        record = Record(fused=_tried(lowered, compiled, fusion=True))
        if measured is Measured.FORMS and cpu_libraries.fuses_convolutions(compiled):
            compiled, record = _chosen(lowered, compiled, record.fused)
    records.keep(name, record)
    trial_records.attach(compiled, record)
    return compiled


def unfused(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The executable whose values XLA's count has, all of them: without fusion on a CPU.

    Nothing is tried out, so that it is the same executable, of the same bytes, everywhere.
    """
    if jax.default_backend() != "cpu":
        return lowered.compile()
    try:
        return _compiled(lowered, fusion=False)
    except JaxRuntimeError:  # a jaxlib without this fusion, or with an option of another name
        return lowered.compile()


def fusion_stays(fused: Trial, unfused: Trial) -> bool:
    """Whether the fused form runs: it takes no more bytes, or the other one much longer.

    >>> fusion_stays(Trial(100, 1.0), Trial(80, 1.4)), fusion_stays(Trial(100, 1.0), Trial(80, 1.6))
    (False, True)
    """
    return unfused.bytes >= fused.bytes or unfused.seconds > SLOWER * fused.seconds


def _chosen(lowered, compiled, fused: Trial | None) -> tuple[jax.stages.Compiled, Record]:
    """The form that runs, and what is known, where the fused one is compiled and was tried."""
    if fused is None:
        return compiled, Record()
    try:
        other = _compiled(lowered, fusion=False)
    except JaxRuntimeError:  # a jaxlib without this fusion, or with an option of another name
        return compiled, Record(fused=fused)
    unfused = None
    if trials.own_bytes(other) + LEAST < fused.bytes:
        limit = max(AT_LEAST_S, STOPPED * fused.seconds)
        unfused = _tried(lowered, other, False, limit)
    if unfused is None or fusion_stays(fused, unfused):
        return compiled, Record(True, fused, unfused)
    return other, Record(False, fused, unfused)


def _compiled(lowered, fusion: bool, further: dict | None = None) -> jax.stages.Compiled:
    options = ({} if fusion else {FUSION: ""}) | (further or {})
    return lowered.compile(options or None)


def _tried(lowered, compiled, fusion: bool, limit_s: float = 0.0) -> Trial | None:
    def again() -> jax.stages.Compiled:
        return _compiled(lowered, fusion, {UNCACHED: uuid.uuid4().hex})

    return trials.tried(compiled, again, limit_s)
