"""What every test shares: the CPU, a cache of its own, the real data, float64."""

import gc
import gzip
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path


def with_flags(*wanted: str) -> str:
    """XLA_FLAGS with more, if this XLA knows all of them: of any that it does not know it dies."""
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in wanted if flag not in flags]
    if not missing:  # the process that started this one has asked
        return flags
    more = " ".join([flags, *missing]).strip()
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(probe, env=os.environ | {"XLA_FLAGS": more}, capture_output=True)
    return flags if known.returncode else more


# Before anything imports jax or tensorflow_datasets.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of the suite's time. XLA's passes stay, and with them nearly all of what
# programs allocate; LLVM's are left out but in tests that ask for `optimised`, fused loops are
# written by the older of two emitters, which is the faster one, and a program's functions are
# compiled as one module: parts for many cores take a third more time in all. With 0 in the
# environment all is compiled as for users.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0":
    os.environ["XLA_FLAGS"] = with_flags(
        "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"
    )
# Nobody reads from which line an operation of a compiled program is.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"
if not os.environ.get("TFDS_DATA_DIR") and _BESIDE.is_dir():
    os.environ["TFDS_DATA_DIR"] = str(_BESIDE)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from command_lines import QUICK, process  # noqa: E402
from data_files import FIRST_LABELS, LOAD, MD5, idx_files, python  # noqa: E402

from dynhp_jax.data.loading import load  # noqa: E402
from dynhp_jax.training.compiled import program_cache  # noqa: E402

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_collection_finish(session):
    """Python's garbage collector passes over what lives as long as the session: modules, tests.

    Tracing makes so many objects that it took a tenth of the suite's time to look through them all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def dynhp_cache(tmp_path_factory) -> Path:
    """Decoded data and compiled programs of this test session, for all processes it starts."""
    if not os.environ.get("DYNHP_CACHE"):
        own = tmp_path_factory.getbasetemp()
        shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
        os.environ["DYNHP_CACHE"] = str(shared / "dynhp_cache")
    program_cache.use_cache()
    return Path(os.environ["DYNHP_CACHE"])


@pytest.fixture(scope="session")
def finished(dynhp_cache, tmp_path_factory) -> tuple[Path, str]:
    """The workdir of a run that was never disturbed, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    done = process(*QUICK, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return workdir, done.stdout


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The directory of prepared MNIST, Fashion-MNIST and CIFAR-10; skips the test without it."""
    root = os.environ.get("TFDS_DATA_DIR")
    if not root:
        pytest.skip("needs real data: TFDS_DATA_DIR is not set, ../shared/data/tfds does not exist")
    missing = [n for n in ("mnist", "fashion_mnist", "cifar10") if not Path(root, n).is_dir()]
    if missing:
        pytest.skip(f"needs real data: TFDS_DATA_DIR={root} does not hold {', '.join(missing)}")
    return Path(root)


@pytest.fixture(scope="session")
def mnist_cache(tfds_dir, dynhp_cache, tmp_path_factory):
    """A cache that holds MNIST, decoded from the prepared directory without TensorFlow."""
    folder = tmp_path_factory.mktemp("cache")
    run = python(
        LOAD, folder, "mnist", TFDS_DATA_DIR=str(tfds_dir), XDG_CACHE_HOME=str(folder / "xdg")
    )
    assert (run.returncode, run.stdout) == (0, FIRST_LABELS), run.stderr
    decoded = folder / "xdg" / "dynhp_jax"
    # Other files' tests need not decode it again.
    shutil.copytree(decoded, dynhp_cache, dirs_exist_ok=True)
    return decoded


@pytest.fixture(scope="session")
def mnist(mnist_cache):
    return load("mnist", cache=mnist_cache)


@pytest.fixture(scope="session")
def original_files(mnist, tmp_path_factory):
    """A directory of MNIST's original files: they have the published hashes."""
    folder = tmp_path_factory.mktemp("originals")
    for name, raw in idx_files(mnist).items():
        assert hashlib.md5(raw).hexdigest() == MD5["mnist"][name]
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture(scope="session")
def packed_files(original_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for file in original_files.iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1))
    return folder


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data beside what a test names."""
    for name in ("TFDS_DATA_DIR", "DYNHP_ORIGINALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DYNHP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def x64():
    """jax in float64 for one test. A hypothesis test enters `jax.enable_x64(True)` itself."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised():
    """LLVM optimises programs of this process as for users; vectorised sums may round otherwise."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_NUMBERS = itertools.count()


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a module that can be imported, under a name that no other test has; the name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(content):
        name = f"own_{next(_NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(content))
        return name

    return write
