"""Makes ``python -m mlagent_lib`` the same as ``mlagent``."""

from mlagent_lib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
