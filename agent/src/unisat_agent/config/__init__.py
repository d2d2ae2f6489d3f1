"""The configuration: its model, and how the file is read and checked."""
