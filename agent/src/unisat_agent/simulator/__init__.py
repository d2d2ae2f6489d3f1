"""A simulated satellite, and the serial line that it sends over."""
