"""`parley serve` that waits as long as need be for a client's first message, however slow the machine.

Run as `python -m tests.interop.attentive serve`.
"""

from server.cli.main import main
from server.hub import reconnect

reconnect.FIRST_MESSAGE_TIMEOUT = 3600.0
main()
