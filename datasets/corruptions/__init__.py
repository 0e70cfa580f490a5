"""What can go wrong with a recorded frame, on purpose: each corruption makes one LogFrame of another, repeatably."""
