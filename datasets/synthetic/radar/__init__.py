"""What the radars report."""
