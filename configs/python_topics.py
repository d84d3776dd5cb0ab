"""Dynamic hard pruning of a small transformer that predicts the next character of Python's help.

    python -m experiments.train --config=configs/python_topics.py --workdir=runs/python_topics

Nothing was tuned. The text is that of the Python that runs, so another version of Python has other
numbers.
"""

from dynhp_jax.training import config as configuration


def get_config():
    config = configuration.default_config_dict()
    config.name = "python_topics"
    config.epochs = 4
    config.data.name = "python_topics"
    config.data.validation = 0.1
    config.model.name = "decoder"
    config.loss.metrics = ("perplexity", "error")
    config.gates.open_hidden = 0.9
    config.gates.learning_rate = 0.02
    config.penalty.lam = 0.1
    config.batch.alpha = 0.9
    config.batch.grid = 2.0
    config.optimizer.learning_rate = 3e-3
    config.compiling.shrink = 0.5
    config.memory.sp_batch = 64
    return config
