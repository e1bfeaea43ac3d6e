"""The paper's figures 3 to 9, and sheets of attention masks: networks run again over a finished run."""
