"""Groups: the units of a model that live and die together."""
