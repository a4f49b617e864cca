"""The ways of a point: in (merge, flush, roll), out (snapshots as frames), and about (compaction, replica, repair)."""
