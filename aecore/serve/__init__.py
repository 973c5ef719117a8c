"""What is served: the published copy."""
