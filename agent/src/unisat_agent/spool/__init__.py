"""The spool: the agent's durable queue."""
