"""The root of every error that the agent raises on purpose."""


class AgentError(Exception):
    """A failure whose text is one sentence for the operator: what is wrong, and the fix."""


class ConfigError(AgentError):
    """The configuration can't be used; `problems` holds one line for each thing to fix."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SpoolError(AgentError):
    """The spool can't do what was asked."""


class SpoolFullError(SpoolError):
    """There is no room for another row: the disk or the spool's own cap is full."""


class SpoolCorruptError(SpoolError):
    """The spool's file is damaged."""


class SpoolBusyError(SpoolError):
    """Another agent has the spool."""
