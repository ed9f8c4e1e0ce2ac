"""Train an agent: the same as `rlx train`, for a checkout without the command on the path."""

import sys

from rlx.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
