"""The training loop and what it works on: networks, stacks of them, optimizers."""
