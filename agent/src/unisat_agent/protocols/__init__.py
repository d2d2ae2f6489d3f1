"""The protocols that devices speak; they know nothing of ports, clocks or networks.

Another protocol is a module with a decoder, and a line in PROTOCOLS.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from unisat_agent.protocols import psott
from unisat_agent.protocols.events import Decoder

PROTOCOLS: Final[Mapping[str, Callable[[], Decoder]]] = MappingProxyType({"psott": psott.Decoder})
"""What `protocol` in [[serial]] may name."""
