"""Time series of ML runs: appended from the training loop, read back as columns."""
