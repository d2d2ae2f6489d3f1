"""What a UniSat station does for itself: its first boot, and unisat.toml at each boot."""
