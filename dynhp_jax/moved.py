"""Import paths of earlier versions, which still lead to what they named, with a warning.

`from dynhp_jax.groups import find_groups` was how the library was used before it had packages. The
paths of this table go with the next version; `import dynhp_jax as dp` has what is public.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import Any

_RENAMED = {  # names that changed beside their module, by the old module
    "criteria": {"get": "get_criterion", "cross_entropy": "strict_cross_entropy"},
    "criteria.evidence": {"Scores": "UnitScores", "cross_entropy": "strict_cross_entropy"},
    "keys": {"named": "key_for"},
    "scores": {"Scores": "ScoreOptions"},
}
MOVED = {  # old module -> modules in which its names are now
    "accumulation": "training.step.accumulation",
    "alone": "training.sweep.member",
    "annealing": "training.run.epoch_schedules",
    "augmentation": "training.step.augmentation",
    "averaging": "training.step.weight_mean",
    "batch_axis": "batch_size.batch_axis",
    "blocked": "structure.equal_blocks",
    "budget": "training.compiled.budget",
    "checkpoint": "training.run.checkpoint",
    "choosing": "memory.fusion",
    "collecting": "structure.find",
    "compiling": "training.compiled.programs",
    "config": "training.config",
    "costs": "structure.costs",
    "counting": "structure.counts gates.penalty",
    "cpu_libraries": "memory.cpu_libraries",
    "criteria": "pruning.criteria.registry pruning.criteria.score pruning.criteria.evidence"
                " pruning.criteria.contract pruning.criteria.chunks",
    "criteria.activation": "pruning.criteria.activation_rate gates.activity",
    "criteria.batch_norm": "pruning.criteria.batch_norm",
    "criteria.chunks": "pruning.criteria.chunks",
    "criteria.contract": "pruning.criteria.contract",
    "criteria.coupling": "pruning.criteria.kernels",
    "criteria.evidence": "pruning.criteria.evidence",
    "criteria.fisher": "pruning.criteria.fisher",
    "criteria.flexrel": "pruning.criteria.flexrel",
    "criteria.geometric_median": "pruning.criteria.geometric_median",
    "criteria.gradient_norm": "pruning.criteria.gradient_norm",
    "criteria.l1": "pruning.criteria.l1",
    "criteria.l2": "pruning.criteria.l2",
    "criteria.mean_activation": "pruning.criteria.mean_activation",
    "criteria.naming": "pruning.criteria.parse",
    "criteria.random": "pruning.criteria.random",
    "criteria.reading": "pruning.criteria.reads",
    "criteria.relevance": "pruning.criteria.relevance",
    "criteria.taylor": "pruning.criteria.taylor",
    "criteria.trial": "training.criterion_check",
    "criteria.velocity": "pruning.criteria.velocity",
    "describe": "structure.table",
    "devices": "training.step.devices",
    "disk": "common.disk",
    "distilling": "training.step.teacher",
    "errors": "common.errors",
    "example_norms": "batch_size.example_norms",
    "feeding": "training.step.streaming",
    "fields": "common.fields",
    "fitting": "memory.largest_fit",
    "gating": "gates.gated",
    "gradients": "training.step.gradients",
    "groups": "structure.groups structure.find structure.counts structure.group",
    "hlo_text": "memory.hlo_text",
    "input_noise": "training.step.input_noise",
    "json_files": "common.json_files",
    "keys": "common.random_keys",
    "literals": "common.literals",
    "loop": "training.run.loop",
    "machine": "common.machine",
    "members": "structure.group",
    "metering": "training.compiled.step_bytes",
    "mirrors": "surgery.mirrors",
    "mixing": "batch_size.independence",
    "named": "training.build",
    "network": "training.network",
    "objective": "training.step.objective gates.penalty",
    "optimizer_surgery": "surgery.optimizer",
    "ordering": "training.compiled.example_order",
    "outcome": "training.run.epoch_results",
    "own_code": "common.own_code",
    "paths": "common.paths",
    "plans": "training.run.shape_plans training.run.machine_speeds",
    "precision": "common.precision",
    "probing": "batch_size.probed",
    "product_axes": "batch_size.contraction_axes",
    "program_cache": "training.compiled.program_cache",
    "replicas": "training.sweep.team",
    "run_criterion": "training.criterion",
    "run_state": "training.run.run",
    "runs": "training.run.trainer",
    "savings": "training.step.savings",
    "schedules": "pruning.schedules",
    "schema": "common.schema",
    "scorer": "training.compiled.scorer",
    "scores": "pruning.options",
    "scoring": "training.run.prune_by_criterion",
    "sections": "training.options gates.options batch_size.options memory.options data.options"
                " models.options",
    "splits": "training.run.examples",
    "stacking": "training.sweep.stacked",
    "steps": "training.compiled.steps",
    "targets": "pruning.targets training.compiled.budget",
    "train_state": "training.step.state training.step.optimizer",
    "trial_process": "memory.trial_process",
    "trial_records": "memory.trial_records",
    "trials": "memory.trials",
    "unit_atoms": "structure.unit_atoms",
    "unit_places": "structure.unit_positions",
    "unit_reads": "structure.unit_reads",
    "uses": "batch_size.parameter_uses",
    "variance": "batch_size.variance",
    "wrapped_states": "surgery.wrapped_states",
}  # fmt: skip


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of MOVED, which no other finder does."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """A specification for an old path; None for all others."""
        package, _, old = fullname.partition(".")
        if package != "dynhp_jax" or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=old == "criteria")

    def create_module(self, spec: Any) -> types.ModuleType:
        """A module whose names are looked up in the new ones."""
        old = spec.name.partition(".")[2]
        warnings.warn(
            f"{spec.name} is now in {', '.join(f'dynhp_jax.{new}' for new in MOVED[old].split())};"
            " what is public is in dynhp_jax itself",
            FutureWarning,
            stacklevel=2,
        )
        return _Moved(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: names are looked up when they are asked for."""


class _Moved(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        old = self.__name__.partition(".")[2]
        now = _RENAMED.get(old, {}).get(name, name)
        for new in MOVED[old].split():
            module = importlib.import_module(f"dynhp_jax.{new}")
            if hasattr(module, now):
                return getattr(module, now)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def install() -> None:
    """Makes the old paths importable; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
