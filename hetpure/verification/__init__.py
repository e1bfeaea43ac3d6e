"""Checks of a run folder's claims: what its files say of each other, and what its networks say again."""
