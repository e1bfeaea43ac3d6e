"""The paper's figures 3 to 9 and sheets of masks: networks looked at again over a finished run's folder."""
