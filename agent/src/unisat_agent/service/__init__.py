"""The running agent: its threads, and what it tells about itself."""
