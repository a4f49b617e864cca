"""Bytes in and out: one contract, one filesystem a module."""
