"""What comes before fine-tuning: a section of the config, and the config of its run."""

import dataclasses

import ml_collections

from dynhp_jax.common.errors import ConfigError
from dynhp_jax.common.fields import LARGEST_WHOLE, Section, number, positive, switch, text, whole
from dynhp_jax.data.options import labels
from dynhp_jax.memory.options import Memory
from dynhp_jax.models.options import Start
from dynhp_jax.training import config as configuration
from dynhp_jax.training.config import Config
from dynhp_jax.training.options import Optimizer
from experiments import config_sections


@dataclasses.dataclass(frozen=True)
class Pretraining(Section):
    """The section `pretraining`: how the network is trained before it is fine-tuned.

    It is not read where `start.weights` names weights.
    """

    prefix = "pretraining."

    epochs: int = whole(0, 0, "of it; 0: there is none, and start.weights has to be given")
    model: str = text("", "the network, which may have BatchNorm to be folded; empty: model.name")
    classes: tuple[int, ...] = labels("classes of the data that it is trained on; (): all")
    examples: int = whole(0, 0, "the first so many of these are used; 0: all")
    batch: int = whole(128, 1, "mini-batch")
    optimizer: str = text("adam", "the optimizer, as optimizer.name has it")
    learning_rate: float = positive(1e-3, "its step size at the start; it falls to 0 as a cosine")
    weight_decay: float = number(
        0.0, 0.0, 1e3, "a number from 0 to 1000", "decoupled, of kernels"
    )  # fmt: skip
    flip: bool = switch(False, "mirror images at random")
    shift: float = number(0.0, 0.0, 100.0, "a number from 0 to 100", "of random moves, in pixels")
    seed: int = whole(0, 0, "of everything random in it", high=LARGEST_WHOLE)

    def config(self, base: Config) -> Config:
        """The run of it, before the fine-tuning of `base`."""
        data = dataclasses.replace(
            base.data,
            classes=self.classes,
            examples=self.examples,
            validation=0.0,
            flip=self.flip,
            shift=self.shift,
        )
        optimizer = Optimizer(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            schedule="cosine",
            weight_decay=self.weight_decay,
        )
        model = dataclasses.replace(base.model, name=self.model or base.model.name)
        return dataclasses.replace(
            base,
            name=f"{base.name}-pretraining",
            seed=self.seed,
            epochs=self.epochs,
            method="dense",
            extension="",
            data=data,
            model=model,
            start=Start(),
            batch=dataclasses.replace(base.batch, rule="fixed", size=self.batch, variance="none"),
            memory=Memory(budget="none", sp_batch=self.batch),
            optimizer=optimizer,
        )


SECTIONS = {"pretraining": Pretraining}


def default_config_dict() -> ml_collections.ConfigDict:
    """`dynhp_jax.training.config.default_config_dict` with the section `pretraining`."""
    return config_sections.with_defaults(Pretraining)


def from_config_dict(values: ml_collections.ConfigDict) -> tuple[Config, Pretraining]:
    """The config of the fine-tuning, and what comes before it.

    Raises:
      UserError: the file is no config of a fine-tuning, a name is no field, or a value is not
        allowed.
      ConfigError: there is nothing to fine-tune.
    """
    plain, pretraining = config_sections.split(values, Pretraining, "configs/finetune_digits.py")
    base = configuration.from_config_dict(ml_collections.ConfigDict(plain))
    if not base.start.weights and not pretraining.epochs:
        allowed = "the path of trained weights (.npz), or pretraining.epochs above 0"
        raise ConfigError("start.weights", "", allowed)
    if not base.start.weights:
        pretraining.config(base)
    return base, pretraining
