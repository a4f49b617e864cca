"""Tracks as pictures: charts, small tables for notebooks, and the page of `dreamlake report`."""
