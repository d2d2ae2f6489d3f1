"""The live stream: new records of a Kinto as server-sent events, and nothing kept in between."""
