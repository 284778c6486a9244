"""`python -m gcbench.cli` is `gcbench`."""

from __future__ import annotations

import sys

from gcbench.cli.main import main

sys.exit(main())
