"""Several workers write one dataset: leases, goodput, and a simulation."""
