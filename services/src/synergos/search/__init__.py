"""The search for the hyper-parameters of an experiment: trials at all grids of a cluster, chosen by Optuna.

`space` has the grammar of what is searched, `order` a request, `trials` the records, `study` what Optuna does,
`job` the search itself, and `routes` the REST. A search is a job of the Director, and each trial is a run like any
other, which jobs of its own train and validate.
"""
