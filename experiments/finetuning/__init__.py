"""Fine-tuning: a pretraining stage, and methods beside each other at equal bytes."""
