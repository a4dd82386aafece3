"""``python -m mdn ...`` is ``mdn ...``."""

import sys

from .cli import main

sys.exit(main())
