"""Studies of decentralised learning beside their papers' claims, over seeds.

    python -m experiments.studies --study=disruption --out=results/decentralised

Each run is a file in OUT/STUDY/, so that the same command goes on where it stopped. The end is
OUT/STUDY.json with a verdict for each question (confirmed, refuted, undecided), and OUT/STUDY.png.
--size=full is 64 nodes on MNIST with the papers' network, --size=small 16 nodes on scikit-learn's
digits. --study=unlearning is FedQUIT beside retraining.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from matplotlib import pyplot as plt

from configs import dec_digits, dec_mnist
from dynhp_jax import decentralised
from dynhp_jax.common import paths, schema
from dynhp_jax.common.disk import write_json
from dynhp_jax.common.errors import UserError
from dynhp_jax.decentralised import placement
from dynhp_jax.training import build
from dynhp_jax.training.compiled import program_cache
from dynhp_jax.training.config import Config
from dynhp_jax.training.files import provenance
from dynhp_jax.training.own_model import Functions
from experiments import commandline, config_sections, result_files
from experiments.nodes import settings, studies, unlearning
from experiments.nodes.scenario import scenario_of
from experiments.nodes.settings import Nodes
from experiments.nodes.studies import STUDIES, Study

UNLEARNING = "unlearning"
_CURVE = schema.list_of(schema.NUMBER, 1)
_RUN = schema.fields({"made_of": schema.MAPPING, "accuracy": schema.NUMBER, "curve": _CURVE})
_FORGOT = schema.fields({"made_of": schema.MAPPING, "accuracy": schema.MAPPING})
OPTIONS = [
    ("study", "", f"one of {', '.join((*STUDIES, UNLEARNING))}"),
    ("size", "small", "full or small"),
    ("seeds", "0,1,2", "of graph, placement, weights and training"),
    ("out", "results/decentralised", "directory of the results"),
]
# What an unlearning is, by size; the full one has the published code's numbers.
FORGETTING = {
    "full": {"rounds": 200, "recovery": 40, "form": "least", "epochs": 1, "rate": 1e-4},
    "small": {"rounds": 30, "recovery": 15, "form": "least", "epochs": 10, "rate": 1e-3},
}
MARGIN = 1.0  # points of test accuracy below retraining's that count as recovered
CLIENTS, ALPHA = 10, 0.3


def main(argv: Sequence[str]) -> None:
    """Parses the command line, does the runs that are missing, and judges them."""
    *_, name, size, seeds, out = commandline.parse(argv, False, OPTIONS, workdir="")
    if name not in (*STUDIES, UNLEARNING):
        raise UserError(f"--study is {name!r}; allowed: {', '.join((*STUDIES, UNLEARNING))}")
    if size not in FORGETTING:
        raise UserError(f"--size is {size!r}; allowed: {', '.join(FORGETTING)}")
    if not all(each.isdecimal() for each in seeds.split(",")):
        raise UserError(f"--seeds is {seeds!r}; allowed: whole numbers with commas, such as 0,1,2")
    numbers = [int(each) for each in seeds.split(",")]
    folder = paths.given(out, "--out")
    command = f"python -m experiments.studies --study={name} --size={size} --seeds={seeds}"
    study = unlearn if name == UNLEARNING else functools.partial(compare, STUDIES[name]())
    found = study(folder / name, size, numbers)
    result = {"command": command, "size": size, "seeds": numbers, **found, **provenance.present()}
    write_json(folder / f"{name}.json", result)
    for answer in found["answers"]:
        print(f"{answer['verdict']}: {answer['says']} (points by seed: {answer['points_by_seed']})")


def sized(size: str, seed: int) -> tuple[Config, Nodes]:
    """The config of a size: 'full' or 'small'."""
    values = (dec_mnist if size == "full" else dec_digits).get_config()
    values.seed = seed
    if size == "small":
        values.nodes.rounds, values.nodes.judge_every = 40, 10
    return settings.from_config_dict(values)


def compare(study: Study, folder: Path, size: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The runs of a study, its answers, and its figure beside the folder."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for arm in study.arms:
        for seed in seeds:
            config, nodes = sized(size, seed)
            nodes = studies.fields_of(study, arm, nodes)
            made_of = config_sections.to_dict(config, nodes)
            path = folder / f"{arm.replace(' ', '_').replace(',', '')}-seed{seed}.json"
            do = functools.partial(_trained, study, config, nodes)
            runs.setdefault(arm, []).append(_kept(path, made_of, _RUN, do))
    accuracies = {arm: [each["accuracy"] for each in found] for arm, found in runs.items()}
    draw({arm: ([each["curve"] for each in found], found[0]["rounds"])
          for arm, found in runs.items()}, folder.with_suffix(".png"))  # fmt: skip
    about = {"nodes": nodes.count, "rounds": nodes.rounds, "data": config.data.name,
             "network": list(config.model.hidden)}  # fmt: skip
    answers = studies.answers(study, accuracies)
    return {"claim": study.claim, "of": about, "accuracy": accuracies, "answers": answers}


def _trained(study: Study, config: Config, nodes: Nodes) -> dict[str, Any]:
    program_cache.use_cache(config.compiling.cache_dir)
    scenario = scenario_of(config, nodes)
    result = decentralised.train(**scenario.arguments)
    judged = [record for record in result.records if "test_accuracy" in record]
    meant = study.judged(nodes, scenario)
    curve = [float(np.mean(np.array(record["test_accuracy"])[meant])) for record in judged]
    rounds = [record["round"] for record in judged]
    return {"accuracy": curve[-1], "curve": curve, "rounds": rounds}


def unlearn(folder: Path, size: str, seeds: Sequence[int]) -> dict[str, Any]:
    """FedQUIT beside retraining, and beside going on without the client."""
    options = {**FORGETTING[size], "margin": MARGIN}
    found = [_kept(folder / f"seed{seed}.json", {"size": size, "seed": seed, **options}, _FORGOT,
                   functools.partial(_forgotten, size, seed, options))
             for seed in seeds]  # fmt: skip
    first = found[0]["curves"]
    draw({name: ([each["curves"][name] for each in found], [*range(1, 1 + len(first[name]))])
          for name in first}, folder.with_suffix(".png"))  # fmt: skip
    of = {name: {kind: [each["accuracy"][name][kind] for each in found]
                 for kind in ("test", "forget")}
          for name in found[0]["accuracy"]}  # fmt: skip
    gap = np.abs(np.subtract(of["recovered"]["forget"], of["retrained"]["forget"]))
    counts = [(each["rounds_of_recovery"], each["rounds_of_retraining"]) for each in found]
    fast = [a is not None and b is not None and 10 * a <= b for a, b in counts]
    answers = [
        {"says": "after recovery the forgotten client's accuracy is within 3 of retraining's",
         "points_by_seed": gap.round(3).tolist(), "verdict": _all_or_none(gap <= 3)},
        {"says": "recovery takes a tenth of retraining's rounds at most (rounds of each)",
         "points_by_seed": counts, "verdict": _all_or_none(fast)},
    ]  # fmt: skip
    about = {"clients": CLIENTS, "alpha": ALPHA, **options}
    claim = "FedQUIT: a client is forgotten as by retraining, at a fraction of its rounds"
    return {"claim": claim, "of": about, "accuracy": of, "answers": answers}


def _all_or_none(each: Sequence[bool]) -> str:
    if len(each) < 2 or any(each) and not all(each):
        return "undecided"
    return "confirmed" if all(each) else "refuted"


def _forgotten(size: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    config, nodes = sized(size, seed)
    program_cache.use_cache(config.compiling.cache_dir)
    dataset = build.classes_of(config)
    spec = build.spec_of(config, dataset, CLIENTS)

    def read(images: np.ndarray) -> np.ndarray:
        mean, deviation = dataset.x_train.mean(), dataset.x_train.std()
        scaled = (images - np.float32(mean)) / np.float32(deviation)
        return scaled.reshape(len(scaled), *spec.input_shape)

    federation = unlearning.Federation(
        Functions(spec.evaluate, spec.train, spec.draws),
        jax.jit(spec.init)(jax.random.key(seed)),
        (read(dataset.x_train), dataset.y_train),
        (read(dataset.x_test), dataset.y_test),
        placement.dirichlet(dataset.y_train, CLIENTS, seed, ALPHA, least=20),
        {"tx": optax.sgd(0.05), "local_epochs": 1, "batch": 32},
    )
    return unlearning.compared(federation, seed=seed, **options)


def _kept(
    path: Path, made_of: Mapping[str, Any], kind: schema.Kind, do: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What lies in a file, or what is done now and put there.

    Raises:
      UserError: a run of something else lies there.
    """
    there = result_files.read(path, kind)
    if there is not None:
        if not config_sections.agrees(there["made_of"], made_of, Nodes):
            raise UserError(
                f"{path} is of another size or config; move it away, or take another --out"
            )
        return there
    print(f"-- {path.parent.name}/{path.stem}", flush=True)
    found = {"made_of": config_sections.as_json(made_of), **do()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


def draw(curves: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[int]]], path: Path) -> None:
    """Accuracy over rounds: the mean of the seeds, and from the least to the most.

    Args:
      curves: {name: (percent by seed, rounds)}.
      path: of the figure.
    """
    figure, panel = plt.subplots(figsize=(6.4, 4.0))
    for place, (name, (each, rounds)) in enumerate(curves.items()):
        width = max(1.0, 4.0 - 0.7 * place)  # arms may coincide
        (line,) = panel.plot(rounds, np.mean(each, 0), label=name, linewidth=width)
        panel.fill_between(rounds, np.min(each, 0), np.max(each, 0), color=line.get_color(),
                           alpha=0.15)  # fmt: skip
    panel.set_xlabel("round")
    panel.set_ylabel("test accuracy (%)")
    panel.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(commandline.run(main, sys.argv))
