"""Rewards of PPO: one interface, one module per kind, and their weighted sum."""
