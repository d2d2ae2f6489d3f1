"""`python -m unisat_agent` is `unisat-agent`."""

import sys

from unisat_agent.cli.main import main

sys.exit(main())
