"""`python tests/bench`: see `bench_run`."""

from bench_run import main

main()
