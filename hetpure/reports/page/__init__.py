"""``report.html``: a run as one page to look at, without a network."""
