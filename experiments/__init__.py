"""Command lines, reports and figures; everything that can be imported elsewhere is in dynhp_jax."""
