"""`python -m rlx`: the command line."""

from rlx.commands.main import main

raise SystemExit(main())
