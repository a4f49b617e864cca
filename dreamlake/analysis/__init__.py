"""What is worked out from tracks for those who look at them: joined by time, thinned for pictures, repeats left out."""
