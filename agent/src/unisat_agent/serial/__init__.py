"""The serial side: ports, the reader of each, and what takes its packages to the spool."""
