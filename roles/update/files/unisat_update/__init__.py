"""Updates a station by itself: signed, at any moment interrupted, and back where it fails."""
