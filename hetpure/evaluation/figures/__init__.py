"""The paper's figures 3 to 9, each drawn from a run's folder: python -m hetpure.evaluation.figures 6 runs/NAME."""
