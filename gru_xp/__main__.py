"""``python -m gru_xp`` runs the command line ``gru-xp``."""

import sys

from gru_xp.cli import main

if __name__ == "__main__":
    sys.exit(main())
