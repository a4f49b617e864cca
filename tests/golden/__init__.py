"""Runs that earlier versions wrote, what they hold, and the script that makes such a set: see README.md."""
