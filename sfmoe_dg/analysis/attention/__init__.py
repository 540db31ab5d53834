"""Attention maps of heads and rollout."""
