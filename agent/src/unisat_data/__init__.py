"""What a reader of a hub needs: its records and series as files, and the live stream on a terminal.

It stands beside the agent because that is the one Python package that people install, and needs
nothing but the standard library there.
"""
