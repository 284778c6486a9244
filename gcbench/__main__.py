"""`python -m gcbench` is `gcbench`."""

from __future__ import annotations

import sys

from gcbench.cli.main import main

sys.exit(main())
