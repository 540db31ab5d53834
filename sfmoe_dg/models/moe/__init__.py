"""Mixture-of-experts layers: routers, the choice of experts, capacity, balance losses, dispatch, traces."""
