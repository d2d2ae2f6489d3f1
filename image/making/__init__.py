"""What `image/release` and `image/update` are made of."""
