"""`python tests/bench`: see `bench_run`."""

import sys

from bench_run import main

try:
    main()
except KeyboardInterrupt:
    sys.exit("interrupted; the same command goes on from here")
