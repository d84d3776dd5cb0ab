"""The packages of the library: imports run one way; the interface needs no more than it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dynhp_jax as dp

ROOT = Path(__file__).resolve().parents[1]
# From the bottom to the top: a package imports those before it. `jaxprs.rules` is a part of
# `jaxprs`, which registers it.
ORDER = ("common", "jaxprs", "structure", "surgery", "gates", "batch_size", "memory", "relevance",
         "tasks", "writers", "pruning", "models", "data", "training", "finetune",
         "decentralised", "planner", "export")  # fmt: skip
AT_THE_TOP = {"dynhp_jax", "dynhp_jax.moved"}
IN_TRAINING = ("", "step", "compiled", "run", "files", "sweep")
HEAVY = ("flax", "orbax", "matplotlib", "tensorflow_datasets", "ml_collections", "sklearn")


def modules():
    found = {}
    for file in sorted((ROOT / "dynhp_jax").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(name, file, known):
    """Modules of the library that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dynhp_jax"):
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {each if each in known else node.module for each in wanted}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("dynhp_jax")}
    return found - {name}


KNOWN = modules()
GRAPH = {name: imports_of(name, file, KNOWN) for name, file in KNOWN.items()}


def test_no_module_imports_itself_by_a_detour():
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, " -> ".join([*under_way[under_way.index(name) :], name])
        if name in done or name in AT_THE_TOP:
            return
        under_way.append(name)
        for other in sorted(GRAPH[name]):
            visit(other)
        done.add(under_way.pop())

    for name in GRAPH:
        visit(name)


def place(name):
    parts = name.split(".")
    room = ORDER.index(parts[1])
    inner = parts[2] if parts[1] == "training" and len(parts) > 2 else ""
    return room, inner if inner in IN_TRAINING else ""


def test_packages_import_only_those_below_them():
    for name, others in GRAPH.items():
        if name in AT_THE_TOP:
            continue
        room, _ = place(name)
        for other in others - AT_THE_TOP:
            assert place(other)[0] <= room, f"{name} imports {other}"


def test_within_training_too():
    """`fit`, which puts everything together, is above all of them."""
    for name, others in GRAPH.items():
        if not name.startswith("dynhp_jax.training.") or name.endswith(".fit"):
            continue
        here = IN_TRAINING.index(place(name)[1])
        for other in others:
            if other.startswith("dynhp_jax.training."):
                assert IN_TRAINING.index(place(other)[1]) <= here, f"{name} imports {other}"


def test_the_interface_is_there_and_loads_nothing_heavy():
    assert all(getattr(dp, name) is not None for name in dp.__all__)
    assert sorted(dp.__all__, key=str.lower) == sorted(set(dp.__all__), key=str.lower)
    loads = (
        "import sys, dynhp_jax as dp; dp.find_groups, dp.gated, dp.score, dp.losses;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_every_package_says_what_it_is():
    for name, file in KNOWN.items():
        assert ast.get_docstring(ast.parse(file.read_text())), name


def test_import_paths_of_earlier_versions_lead_to_the_same_things():
    import dynhp_jax.moved as moved

    for old, homes in moved.MOVED.items():
        for home in homes.split():
            assert f"dynhp_jax.{home}" in KNOWN, (old, home)
        assert f"dynhp_jax.{old}" not in KNOWN
    for module in [name for name in sys.modules if name.removeprefix("dynhp_jax.") in moved.MOVED]:
        del sys.modules[module]
    with pytest.warns(FutureWarning, match="dynhp_jax.groups is now in dynhp_jax.structure"):
        from dynhp_jax.groups import Groups, find_groups
    with pytest.warns(FutureWarning):
        from dynhp_jax.keys import named

        from dynhp_jax import criteria
    from dynhp_jax.pruning import prune_to
    from dynhp_jax.surgery import cut, resized

    assert (Groups, find_groups, cut, resized) == (dp.Groups, dp.find_groups, dp.cut, dp.resized)
    assert (criteria.get, criteria.score, named) == (dp.get_criterion, dp.score, dp.key_for)
    assert prune_to is dp.prune_to
    with pytest.raises(AttributeError, match="module 'dynhp_jax.criteria' has no attribute 'sc'"):
        criteria.sc  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        import dynhp_jax.nowhere  # noqa: F401
