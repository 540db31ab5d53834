"""A sweep: its study (a TOML file), the plan of its runs, their status, their cost, how to stop and delete them."""
