"""Long runs that look for lost, doubled or altered points: one command each, and what the last run of each found."""
