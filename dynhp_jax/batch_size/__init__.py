"""How large a mini-batch is: its rules, and the gradient variance that they read."""
