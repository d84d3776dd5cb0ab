"""What a network is trained for: losses, metrics, and a `Task` that holds both."""
