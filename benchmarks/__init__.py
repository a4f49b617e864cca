"""Every workload that dreamlake promises a speed or a size for, measured beside its floor in one run."""
