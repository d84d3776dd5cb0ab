"""Where processes of a test find each other."""

import socket


def free():
    """An address of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return f"localhost:{one.getsockname()[1]}"
