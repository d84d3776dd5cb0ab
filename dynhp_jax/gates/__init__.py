"""Hard-concrete gates on units: their distribution, their penalty, and which of them stay open."""
