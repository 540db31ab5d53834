"""A sweep: the study (TOML), the plan of its runs, their status, what they cost, stopping and deleting them."""
