"""The Director of a cluster: the orchestrator's REST, with jobs that other processes' grids do.

`desk` has what is in flight, `engine` makes messages of jobs and results of answers, `cluster` decides what is next.
"""
