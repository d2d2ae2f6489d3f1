"""The UniSat publisher's agent: PSoTT on a serial line in, records in Kinto out."""

from importlib.metadata import version

__version__ = version("unisat-agent")
