"""The pump in pure Python: a child process whose every packet costs a handful of calls into C."""
