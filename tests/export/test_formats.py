"""Every format holds every shipped model, or says what is missing; what is written computes it."""

import importlib.util
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import copy_of, fails, here
from flax import linen as nn

import dynhp_jax as dp
from dynhp_jax.export import quantise
from dynhp_jax.export.formats import c_files
from dynhp_jax.export.formats.format import Source
from dynhp_jax.export.formats.registry import FORMATS
from dynhp_jax.export.graph import run
from dynhp_jax.export.network import Finished
from dynhp_jax.export.reading import Missing, graph_of
from dynhp_jax.models.registry import SPECS, build
from experiments import export, latency

SMALL = {  # sizes that are quick to compile
    "mlp": {"hidden": (9, 7)},
    "vgg": {"width": 0.0625},
    "resnet": {"width": 0.25, "depth": 8},
    "resnet_folded": {"width": 0.25, "depth": 8},
    "wide_resnet": {"width": 0.25, "depth": 10},
    "mobilenet": {"width": 0.125},
    "vit": {"width": 0.25, "depth": 1},
    "decoder": {"width": 0.25, "depth": 1},
    "lenet": {"width": 0.2},
}
RUN = ("own", "wide_resnet", "vit", "decoder")  # the others have no other kinds
INTEGERS = ("vit", "decoder")  # what 8-bit integers do not have


class Own(nn.Module):
    """What the shipped models have of convolutions and pools, and more."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(6, (3, 3), strides=2)(x - 0.5))
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 3), feature_group_count=6)(x))
        x = x + nn.relu(nn.Conv(6, (1, 1))(nn.max_pool(x, (3, 3), (1, 1), "SAME")))
        x = nn.avg_pool(
            nn.Conv(8, (3, 3), feature_group_count=2, kernel_dilation=2)(x), (2, 2), (2, 2)
        )
        x = nn.Dense(7)(nn.relu(x.transpose(0, 2, 1, 3).reshape(len(x), -1)))
        return nn.Dense(3)(x)


def own_network():
    module, example = Own(), jax.ShapeDtypeStruct((9, 9, 2), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 9, 9, 2)))
    return module.apply, shapes, example, None


def of(name):
    """A small network of that name with drawn weights, and inputs."""
    tokens, rng = name == "decoder", np.random.default_rng(0)
    if name == "own":
        apply, shapes, example, spec = own_network()
    else:
        shape = {"decoder": (6,), "mlp": (5, 5, 1)}.get(name, (32, 32, 3))
        spec = build(name, shape, 10, tokens=tokens, **SMALL.get(name, {}))
        apply, shapes, example = spec.evaluate, spec.shapes(), spec.example

    def draw(path, leaf):
        if "var" in str(path) or "scale" in str(path):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (rng.normal(size=leaf.shape) * spread).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    inputs = rng.normal(size=(2, *example.shape)).astype(np.float32)
    inputs = rng.integers(0, 10, (2, 6)).astype(np.int32) if tokens else inputs
    return Finished(apply, variables, {}, {}, example, None, {}, spec), inputs


def runnable(name):
    """Skips where a format's library or the compiler is not there."""
    for package in FORMATS[name].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if name.startswith("c") and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")


@pytest.mark.parametrize("name", SPECS)
def test_every_shipped_model_has_a_graph_that_every_format_takes(name):
    network, inputs = of(name)
    source = Source(network, inputs)
    for kind, each in FORMATS.items():
        if kind == "c-int8" and name in INTEGERS:
            with pytest.raises(Missing, match="'c-int8' has nothing for .*'matmul'"):
                each.check_network(source)
        else:
            each.check_network(source)


@pytest.mark.parametrize("name", RUN)
def test_the_graph_computes_what_the_network_does(name):
    network, inputs = of(name)
    wanted = np.asarray(jax.jit(network)(inputs))
    found = run(graph_of(network, network.example), inputs)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["onnx", "tflite", "c", "c-int8"])
def test_what_is_written_computes_what_the_graph_does(kind, tmp_path):
    runnable(kind)
    for name in RUN:
        if kind == "c-int8" and name in INTEGERS:
            continue
        network, inputs = of(name)
        source = Source(network, inputs, name)
        call = FORMATS[kind].open(FORMATS[kind].write(source, tmp_path), source)
        wanted, found = run(source.graph, inputs), call(inputs)
        bound = 0.05 if kind == "c-int8" else 1e-5
        np.testing.assert_allclose(found, wanted, atol=bound * np.abs(wanted).max(), err_msg=name)


def test_c_allocates_nothing_and_its_buffer_holds_what_lives_at_once(tmp_path):
    runnable("c")
    network, inputs = of("own")
    source = Source(network, inputs, "net")
    files = FORMATS["c"].write(source, tmp_path)
    text = files[0].read_text()
    assert not re.search(r"\b(malloc|calloc|alloca|free)\b", text)
    (size,) = map(int, re.findall(r"static float buffer\[(\d+)\]", text))
    # Of every two values that live together neither lies in the other.
    graph, ops = source.graph, source.graph.ops
    places = c_files.places(graph, ["reshape"])
    for op in ops:
        low, high = places.at[op.name], places.at[op.name] + np.prod(op.shape)
        assert high <= size
        for name in op.data:
            if name in places.at and op.kind != "reshape":
                start = places.at[name]
                assert high <= start or start + np.prod(graph.shape(name)) <= low, name
    call = FORMATS["c"].open(files, source)
    assert 4 * size <= call.ram <= 4 * size + 4096


def test_integers_stand_for_the_numbers_that_they_were_made_of():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 3, 1000)
    known = quantise.range_of(x)
    back = known.scale * (known.integers(x).astype(float) - known.zero)
    assert np.abs(back - x).max() <= 0.51 * known.scale + 1e-12
    assert known.integers(np.zeros(1))[0] == known.zero
    factors = rng.uniform(1e-6, 3, 20)
    multipliers, shift = quantise.fixed(factors)
    np.testing.assert_allclose(multipliers / 2.0**shift, factors, atol=factors.max() * 2**-29)


def test_what_has_no_operation_is_named_before_anything_is_written(tmp_path):
    params = {"a": jnp.ones((4, 3))}
    apply = lambda p, x: jnp.sort(x @ p["a"])  # noqa: E731
    x = np.ones((2, 4), np.float32)
    network = dp.export.finish(apply, params, dp.find_groups(apply, params, x))
    with pytest.raises(dp.UserError, match="the primitive 'sort', which no exported graph has"):
        dp.export.write(network, tmp_path / "out", "npz,c", inputs=x)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_an_error(tmp_path, monkeypatch):
    kind = FORMATS["npz"]
    monkeypatch.setattr(kind, "open", lambda files, source: lambda inputs: np.ones((2, 10)))
    network, inputs = of("mlp")
    with pytest.raises(dp.UserError, match="'npz' differs from the network by .*allowed: 0.0001"):
        dp.export.write(network, tmp_path / "out", "npz", inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_exported_with_a_card(finished, tmp_path, capfd):
    workdir = copy_of(finished[0], tmp_path)
    formats = "npz" if not any(map(shutil.which, ("cc", "gcc", "clang"))) else "npz,c,c-int8"
    code, said, complaint = here(capfd, export.main, f"--workdir={workdir}", f"--format={formats}")
    assert (code, complaint) == (0, "")
    found = json.loads((workdir / "export" / "export.json").read_text())
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['parameters']:,} of" in found["facts"]["parameters"]
    assert found["formats"][0]["error"] == pytest.approx(last["test_error"])
    assert all(each["error"] <= last["test_error"] + 3 for each in found["formats"])
    card = (workdir / "export" / "model.md").read_text()
    assert said.splitlines()[0] in card and "CC BY 4.0" in card
    held = np.load(workdir / "export" / "digits.npz")
    assert sum(held[n].size for n in held if n.startswith("params")) == last["parameters"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--workdir is missing"),
        (("--workdir=nowhere", "--format=pickle"), "no format 'pickle'; allowed: npz, safetensors"),
        (("--workdir=nowhere", "--examples=none"), "--examples is 'none'; allowed: a whole number"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(flags, says, capfd):
    assert says in fails(capfd, export.main, *flags)


def test_latency_sets_the_pruned_network_beside_the_dense_one(finished, tmp_path, capfd):
    out = tmp_path / "latency.json"
    flags = (f"--workdir={finished[0]}", "--rounds=2", "--batch=3", f"--out={out}")
    code, said, _ = here(capfd, latency.main, *flags)
    assert code == 0
    found = json.loads(out.read_text())
    assert found["parameters"]["pruned"] < found["parameters"]["dense"]
    assert {(row["runtime"], row["batch"]) for row in found["rows"]} >= {("jit", 1), ("jit", 3)}
    for row in found["rows"]:
        median, low, high = row["pruned"]
        assert 0 < low <= median <= high and f"| {row['runtime']} | {row['batch']} |" in said
