"""Telnet with the serial port option (RFC 854, RFC 2217), from the client's side; pure.

Only what reading a remote port needs: binary both ways, the settings of the line sent once, the
data unescaped, and everything else that the server says refused or ignored.
"""

from __future__ import annotations

import struct
from typing import Final

from unisat_agent.config.model import PortSettings

_IAC: Final = 255
_SE, _SB, _WILL, _WONT, _DO, _DONT = 240, 250, 251, 252, 253, 254
_BINARY, _SUPPRESS_GO_AHEAD, _COM_PORT = 0, 3, 44
_OFFERED: Final = frozenset({_BINARY, _SUPPRESS_GO_AHEAD, _COM_PORT})
# COM-PORT-OPTION: what the client sets.
_SET_BAUD, _SET_SIZE, _SET_PARITY, _SET_STOP, _SET_CONTROL = 1, 2, 3, 4, 5
_PARITY: Final = {"N": 1, "O": 2, "E": 3}
_STOP: Final = {1.0: 1, 2.0: 2, 1.5: 3}
_NO_FLOW_CONTROL, _XON_XOFF, _RTS_CTS = 1, 2, 3
_DTR_ON, _DTR_OFF, _RTS_ON, _RTS_OFF = 8, 9, 11, 12
# A subnegotiation is a few bytes; one that does not end is dropped as it comes.
_MAX_COMMAND_BYTES: Final = 256


class Telnet:
    """One connection: what to send to open it, and the port's bytes in what comes back."""

    def __init__(self, settings: PortSettings) -> None:
        self._settings = settings
        self._pending = bytearray()
        self._skipping = False

    def opening(self) -> bytes:
        """What the client sends first: the options that it wants, and the line's settings."""
        settings = self._settings
        flow = _NO_FLOW_CONTROL
        if settings.rtscts:
            flow = _RTS_CTS
        elif settings.xonxoff:
            flow = _XON_XOFF
        wanted = [
            bytes((_IAC, verb, option)) for option in sorted(_OFFERED) for verb in (_WILL, _DO)
        ]
        controls = [flow, _DTR_ON if settings.dtr else _DTR_OFF]
        if not settings.rtscts:
            controls.append(_RTS_ON if settings.dtr else _RTS_OFF)
        return b"".join(
            (
                *wanted,
                _set(_SET_BAUD, struct.pack("!I", settings.baud)),
                _set(_SET_SIZE, bytes((settings.bytesize,))),
                _set(_SET_PARITY, bytes((_PARITY[settings.parity],))),
                _set(_SET_STOP, bytes((_STOP[settings.stopbits],))),
                *(_set(_SET_CONTROL, bytes((control,))) for control in controls),
            )
        )

    def take(self, received: bytes) -> tuple[bytes, bytes]:
        """Takes what the server sent, cut anywhere.

        Returns:
            The bytes of the port, and what to answer.
        """
        self._pending += received
        data, answer = bytearray(), bytearray()
        while self._pending:
            if self._skipping:
                if not self._skip():
                    break
                continue
            at = self._pending.find(_IAC)
            if at < 0:
                at = len(self._pending)
            data += self._pending[:at]
            del self._pending[:at]
            if len(self._pending) < 2:
                break
            command = self._pending[1]
            if command == _IAC:
                data.append(_IAC)
                del self._pending[:2]
            elif command == _SB:
                self._skipping = True
            elif command in {_WILL, _WONT, _DO, _DONT}:
                if len(self._pending) < 3:
                    break
                answer += _refusal(command, self._pending[2])
                del self._pending[:3]
            else:
                del self._pending[:2]
        return bytes(data), bytes(answer)

    def _skip(self) -> bool:
        """Drops a subnegotiation; whether its end has come."""
        end = self._pending.find(bytes((_IAC, _SE)))
        if end < 0:
            # Its last byte may be the first half of its end.
            del self._pending[: max(0, len(self._pending) - _MAX_COMMAND_BYTES)]
            return False
        del self._pending[: end + 2]
        self._skipping = False
        return True


def _set(command: int, value: bytes) -> bytes:
    escaped = value.replace(bytes((_IAC,)), bytes((_IAC, _IAC)))
    return bytes((_IAC, _SB, _COM_PORT, command)) + escaped + bytes((_IAC, _SE))


def _refusal(command: int, option: int) -> bytes:
    """The answer to an offer or a request that was not asked for; none to the others."""
    if option in _OFFERED or command in {_WONT, _DONT}:
        return b""
    return bytes((_IAC, _DONT if command == _WILL else _WONT, option))
