"""The serial cable: a pty behind a stable symlink, which can be unplugged and plugged in again.

    cable = Cable(directory / "by-id" / "usb-UniSat")     # plugged in at once
    taken = cable.write(package)                          # bytes that the line took; never hangs
    cable.drained(5)                                      # True: the agent has read every byte
    cable.unplug()                                        # unread bytes are lost, symlink gone
    cable.write(package)                                  # 0: a cable that is out drops bytes
    cable.plug(elsewhere=True)                            # new pty, another /dev/pts number
    cable.close()

The receiver opens `cable.name` (the symlink); `cable.device` is the /dev/pts path of the moment.
"Sent" therefore means: `write` took every byte and `drained` was true before an `unplug`. A byte
that nobody has read yet stays on the line also when the receiver is killed, and the next one to
open the port gets it. The simulator uses the same class, so a test and a simulated satellite break
in the same way.
"""

from unisat_agent.simulator.line import Pty as Cable

__all__ = ["Cable"]
