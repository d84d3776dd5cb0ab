"""One step of training, an epoch, an evaluation: pure functions of pytrees."""
