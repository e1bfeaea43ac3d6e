"""A static site of results from run folders: one table for each data set and threat model."""
