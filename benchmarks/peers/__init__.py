"""The same workloads run by this library and by its peers (`python -m benchmarks.peers`)."""
