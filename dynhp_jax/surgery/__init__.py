"""Making arrays smaller, and the functions and optimizer states over them."""
