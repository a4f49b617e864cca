"""What is on disk: names, lines and segments, made and parsed. No I/O."""
