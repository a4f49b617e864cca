"""Tests against the real libraries of others, in environments of their own."""
