"""The paper's figures 3 to 9, each drawn from a run's folder: python -m hetpure.studies 6 runs/NAME."""
