"""The whole telemetry path in one minute: `make demo`.

A simulated satellite (a process, on a pty) → the agent (a process) → a local Kinto and a hub (two
processes, memory backend). Between the agent and the hub stands a valve. On the way the hub is cut
off for a while, and the cable is pulled once. At the end the judge compares what the satellite sent
with what both Kintos hold; its verdict is the last line, and the exit code is 0 when every package
is in both exactly once. With --forever there is no script: a page with buttons brings faults about.

Exit codes: 0 all well, 1 not, 2 could not begin, 130 stopped by Ctrl-C.
"""
