"""A comparison that takes seconds."""

TINY = (
    "--config=configs/compare_fmnist.py", "--config.name=tiny", "--config.data.name=digits",
    "--config.data.examples=300", "--config.data.validation=0.2", "--config.model.name=mlp",
    "--config.model.hidden=(16, 8)", "--config.memory.sp_batch=50", "--config.epochs=3",
    "--config.compare.seeds=(0, 1)", "--config.compare.fractions=(0.5, 0.8)",
    "--config.compare.methods=('hp',)", "--config.compare.lams=(0.1,)",
    "--config.compare.test=0",
    "--config.gates.open_hidden=0.9",
)  # fmt: skip


def tiny(*flags):
    """The flags, and those of TINY that they do not name."""
    named = {flag.partition("=")[0] for flag in flags}
    return [*(flag for flag in TINY if flag.partition("=")[0] not in named), *flags]
