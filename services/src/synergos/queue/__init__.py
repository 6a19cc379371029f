"""Jobs for the grids of a cluster and what becomes of them, over RabbitMQ.

docs/queue.md tells the life of a job. The broker has what is in flight; the Director's records have the truth.
"""

from synergos.queue.broker import CREDENTIALS, Address, BrokerAway, Depth, Publisher, Unroutable
from synergos.queue.consumer import Controls, GiveBack, JobConsumer, ResultConsumer
from synergos.queue.messages import Cancel, Completed, Failure, Job, Lost, Malformed, Progress

__all__ = [
    "CREDENTIALS",
    "Address",
    "BrokerAway",
    "Cancel",
    "Completed",
    "Controls",
    "Depth",
    "Failure",
    "GiveBack",
    "Job",
    "JobConsumer",
    "Lost",
    "Malformed",
    "Progress",
    "Publisher",
    "ResultConsumer",
    "Unroutable",
]
