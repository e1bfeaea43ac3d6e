"""Grids of settings, and the figures of what they find."""
