"""`python -m robotlearn.doctor`, for when typer is among what is broken."""

import sys

from robotlearn.doctor.report import main

if __name__ == "__main__":
    sys.exit(main(as_json="--json" in sys.argv[1:]))
