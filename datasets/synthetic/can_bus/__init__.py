"""What the vehicle says about itself."""
