"""Runs that other tools recorded, brought into a lake; a module for each tool."""
