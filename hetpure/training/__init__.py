"""Training: the denoiser and the classifier, each a LightningModule that exports what the rest loads."""
