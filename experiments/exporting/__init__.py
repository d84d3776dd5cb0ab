"""What the programs of export share: examples of a run, and the model card."""
